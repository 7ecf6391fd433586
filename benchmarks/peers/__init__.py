"""The servers that are compared, in the order of the report."""

from __future__ import annotations

from peers.asgi import FastAPI, Uvicorn
from peers.bare_pair import BarePair
from peers.bentoml import BentoML
from peers.litserve import LitServe
from peers.mosec import Mosec
from peers.peer import Peer
from peers.ray_serve import RayServe, RayServeTuned
from peers.salver import Salver

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Salver(),
        RayServeTuned(),
        RayServe(),
        Mosec(),
        LitServe(),
        BentoML(),
        FastAPI(),
        Uvicorn(),
        BarePair(),
    )
}
