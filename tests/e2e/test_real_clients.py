"""``examples/newsroom`` as it is, and the clients that people use: all of the programming model over real HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import shutil
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import requests
import trustme
import websockets.asyncio.client
import websockets.sync.client

from harness.instance import SalverRun

EXAMPLE = Path(__file__).parents[2] / "examples" / "newsroom"
WITHIN_S = 30.0
STORY = 7
LARGE = 20_000_000

TWO_REPLICAS = """
from newsroom import Editor, Newsroom, NewsWire, Ranker, Translator

children = (each.options(num_replicas=2).bind() for each in (Ranker, NewsWire, Editor, Translator))
app = Newsroom.options(num_replicas=2).bind(*children)
"""


@dataclass(frozen=True)
class Served:
    """The example as it runs.

    Attributes:
        url: where it is, without a slash at the end.
        ca: file of the authority to trust; None without TLS.
    """

    run: SalverRun
    url: str
    ca: str | None = None

    @property
    def websocket_url(self) -> str:
        return f"{self.url.replace('http', 'ws', 1)}/chat"

    @property
    def context(self) -> ssl.SSLContext | None:
        return None if self.ca is None else ssl.create_default_context(cafile=self.ca)


Start = Callable[..., Served]


@pytest.fixture
def serve_newsroom(salver_run: Callable[..., SalverRun], tmp_path: Path) -> Start:
    """``serve_newsroom("newsroom:app", "--proxies", "2")``: a real ``salver run`` of the example."""

    def start(*argv: str, ca: str | None = None, files: dict[str, str] | None = None) -> Served:
        shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        run = salver_run(*(argv or ("newsroom:app",)), "--port", "0", files=files)
        return Served(run, run.url.rstrip("/"), ca)

    return start


@pytest.fixture
def session() -> Generator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def pieces(size: int = 65_536, number: int = 50) -> Iterator[bytes]:
    for index in range(number):
        yield bytes([index]) * size


SENT_IN_PIECES = {"bytes": 50 * 65_536, "sha256": hashlib.sha256(b"".join(pieces())).hexdigest()}


def sentences(lines: Iterator[str]) -> list[tuple[int, str]]:
    """Id and data of each event of a whole story."""
    events = [event.split("\n") for event in "\n".join(lines).strip().split("\n\n")]
    assert events.pop() == ["event: end", f"data: {STORY} sentences"]
    return [(int(number.removeprefix("id: ")), data.removeprefix("data: ")) for number, _, data in events]


def use_everything(served: Served, session: requests.Session) -> None:
    """One pass of the main calls."""
    session.verify = served.ca or True

    page = session.get(f"{served.url}/", timeout=WITHIN_S)
    assert (page.status_code, page.text) == (200, (EXAMPLE / "page.html").read_text())
    assert session.get(f"{served.url}/openapi.json", timeout=WITHIN_S).json()["info"]["title"] == "Newsroom"

    ranked = session.post(f"{served.url}/ranks", json={"text": "Ship free of bananas"}, timeout=WITHIN_S)
    assert ranked.json() == {"score": 3, "ranked_together": 1}
    assert session.post(f"{served.url}/ranks", json={"text": ""}, timeout=WITHIN_S).status_code == 422

    with session.get(f"{served.url}/story", params={"pause_s": 0.01}, stream=True, timeout=WITHIN_S) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        answer.encoding = "utf-8"
        story = sentences(map(str, answer.iter_lines(decode_unicode=True)))
    assert [number for number, _ in story] == list(range(STORY))
    assert story[4][1] == "“Überraschend”, says a seal."
    rest = session.get(f"{served.url}/story?pause_s=0", headers={"Last-Event-ID": "4"}, timeout=WITHIN_S)
    assert sentences(iter(rest.content.decode().split("\n"))) == story[5:]

    for language, text in (
        ("de", "das Schiff ist frei"),
        ("fr", "le navire est libre"),
        ("de", "das Schiff ist frei"),
    ):
        translated = session.get(
            f"{served.url}/translations",
            params={"text": "The ship is free"},
            headers={"serve_multiplexed_model_id": language},
            timeout=WITHIN_S,
        )
        assert translated.json()["text"] == text
        assert translated.json()["loads"] <= 2

    assert session.put(f"{served.url}/photos", data=pieces(), timeout=WITHIN_S).json() == SENT_IN_PIECES

    with websockets.sync.client.connect(served.websocket_url, ssl=served.context, open_timeout=WITHIN_S) as chat:
        for turn in range(1, 4):
            chat.send("Who? 🙂?")
            assert chat.recv(timeout=WITHIN_S) == f"{turn}. Who? 🙂? Print it."


# --- where it is served -------------------------------------------------------------------------------------


def test_as_it_is(serve_newsroom: Start, session: requests.Session) -> None:
    served = serve_newsroom()
    use_everything(served, session)
    assert "Traceback" not in served.run.output()


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("prefix", ["/", "/the/news"])
def test_prefix_proxies_replicas_and_tls(
    serve_newsroom: Start, session: requests.Session, tmp_path: Path, prefix: str, secure: bool
) -> None:
    """Two proxies and two replicas of everything; each connection may go to another proxy."""
    ca, tls = certificates(tmp_path) if secure else (None, ())
    served = serve_newsroom(
        "many:app", "--route-prefix", prefix, "--proxies", "2", *tls, ca=ca, files={"many.py": TWO_REPLICAS}
    )
    assert served.url == f"http{'s' if secure else ''}://127.0.0.1:{served.run.port}{prefix.rstrip('/')}"
    pids = served.run.pids()
    assert (len(pids["proxy"]), len(pids["replica"])) == (2, 10)
    for _ in range(3):
        with requests.Session() as fresh:
            fresh.trust_env = False
            use_everything(served, fresh)
    assert "Traceback" not in served.run.output()


def certificates(folder: Path) -> tuple[str, tuple[str, ...]]:
    """The file of an authority, and the flags for a certificate that it has signed."""
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    ca, chain, key = folder / "ca.pem", folder / "chain.pem", folder / "key.pem"
    ca.write_bytes(authority.cert_pem.bytes())
    chain.write_bytes(b"".join(each.bytes() for each in made.cert_chain_pems))
    key.write_bytes(made.private_key_pem.bytes())
    key.chmod(0o600)
    return str(ca), ("--ssl-certfile", str(chain), "--ssl-keyfile", str(key))


def test_in_rays_spelling(serve_newsroom: Start, session: requests.Session) -> None:
    """The same source but for two import lines, which are Ray Serve's."""
    source = (EXAMPLE / "newsroom.py").read_text()
    rays = source.replace("from salver import serve", "from ray import serve")
    rays = rays.replace("from salver.serve.handle import", "from ray.serve.handle import")
    assert "import salver" not in rays
    assert "from salver" not in rays
    served = serve_newsroom("rays:app", "--compat", files={"rays.py": rays})
    use_everything(served, session)


# --- who uses it --------------------------------------------------------------------------------------------


def test_httpx(serve_newsroom: Start) -> None:
    served = serve_newsroom()
    with httpx.Client(base_url=served.url, timeout=WITHIN_S, trust_env=False) as client:
        page = client.get("/")
        assert (page.http_version, page.status_code) == ("HTTP/1.1", 200)
        with client.stream("GET", "/story", params={"pause_s": 0.01}) as answer:
            assert len(sentences(answer.iter_lines())) == STORY
        assert client.put("/photos", content=pieces()).json() == SENT_IN_PIECES
        assert client.put("/photos", content=bytes(LARGE)).json()["bytes"] == LARGE
        refused = client.get("/translations", params={"text": "x"}, headers={"serve_multiplexed_model_id": "xx"})
        assert (refused.status_code, refused.json()["detail"][:22]) == (404, "no translator for 'xx'")
        assert client.get("/nowhere").status_code == 404
        assert client.delete("/ranks").status_code == 405


def test_many_at_once_meet_in_batches(serve_newsroom: Start) -> None:
    """64 requests on as many connections: the model is called far less often."""
    served = serve_newsroom()

    async def rank_many() -> list[int]:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=served.url, timeout=WITHIN_S, limits=limits, trust_env=False) as client:
            texts = [f"ship {'bananas ' * (number % 3)}" for number in range(64)]
            answers = await asyncio.gather(*(client.post("/ranks", json={"text": text}) for text in texts))
            assert [each.json()["score"] for each in answers] == [1 + number % 3 for number in range(64)]
            return [each.json()["ranked_together"] for each in answers]

    members = Counter(asyncio.run(rank_many()))
    batches = {size: number // size for size, number in members.items()}
    assert all(number % size == 0 for size, number in members.items()), members
    print("batches by size:", batches)
    assert max(batches) <= 16
    assert sum(batches.values()) <= 16


def test_the_first_event_does_not_wait_for_the_second(serve_newsroom: Start) -> None:
    """And a reader who leaves then ends the story, also where it is told."""
    served = serve_newsroom()

    async def read_the_first() -> float:
        async with httpx.AsyncClient(base_url=served.url, timeout=WITHIN_S, trust_env=False) as client:
            began = time.monotonic()
            async with client.stream("GET", "/story", params={"pause_s": 60}) as answer:
                lines = answer.aiter_lines()
                assert [await anext(lines) for _ in range(3)][2] == "data: A ship has run aground."
                return time.monotonic() - began

    print(f"first event after {asyncio.run(read_the_first()) * 1000:.1f} ms")
    served.run.wait_for_output("GET /story 499 .*the client left", WITHIN_S)
    served.run.interrupt()
    assert served.run.wait(WITHIN_S) == 0, "nothing that still tells the story for minutes holds it up"


def test_many_readers_and_chats_at_once(serve_newsroom: Start) -> None:
    served = serve_newsroom()

    async def read(client: httpx.AsyncClient) -> int:
        async with client.stream("GET", "/story", params={"pause_s": 0.05}) as answer:
            return len(sentences(iter([line async for line in answer.aiter_lines()])))

    async def talk(name: int) -> int:
        turns = 20
        async with websockets.asyncio.client.connect(served.websocket_url, open_timeout=WITHIN_S) as chat:
            for turn in range(1, turns + 1):
                await chat.send(f"{name}?")
                assert await asyncio.wait_for(chat.recv(), WITHIN_S) == f"{turn}. {name}? Print it."
        assert chat.close_code == 1000
        return turns

    async def everyone() -> None:
        limits = httpx.Limits(max_connections=30)
        async with httpx.AsyncClient(base_url=served.url, timeout=WITHIN_S, limits=limits, trust_env=False) as client:
            reads, talks = (read(client) for _ in range(30)), (talk(name) for name in range(30))
            assert await asyncio.gather(*reads, *talks) == [STORY] * 30 + [20] * 30

    asyncio.run(everyone())
    assert "Traceback" not in served.run.output()


def test_the_standard_library(serve_newsroom: Start) -> None:
    """``http.client``, everything on one connection."""
    served = serve_newsroom()
    connection = http.client.HTTPConnection("127.0.0.1", served.run.port, timeout=WITHIN_S)
    connection.connect()
    own = connection.sock.getsockname()

    def ask(method: str, path: str, body: object = None, **headers: str) -> http.client.HTTPResponse:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, names, encode_chunked=isinstance(body, Iterator))  # type: ignore[arg-type]
        return connection.getresponse()

    answer = ask("POST", "/ranks", json.dumps({"text": "a ship"}), content_type="application/json")
    assert json.loads(answer.read())["score"] == 1
    answer = ask("PUT", "/photos", pieces(), transfer_encoding="chunked")
    assert json.loads(answer.read()) == SENT_IN_PIECES
    answer = ask("GET", "/story?pause_s=0")
    assert len(sentences(iter(answer.read().decode().split("\n")))) == STORY
    answer = ask("HEAD", "/ranks")
    assert (answer.status, answer.read()) == (405, b"")
    answer = ask("GET", "/translations?text=free", serve_multiplexed_model_id="it")
    assert json.loads(answer.read())["text"] == "libera"
    assert connection.sock is not None
    assert connection.sock.getsockname() == own
    connection.close()


# --- curl ---------------------------------------------------------------------------------------------------

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")


def curl(*argv: str) -> tuple[bytes, str]:
    """What it wrote, and what it said with ``--verbose``. Fails when it does."""
    command = ["curl", "--disable", "--noproxy", "*", "--silent", "--verbose", "--max-time", str(WITHIN_S), *argv]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=WITHIN_S + 10, check=False)
    said = done.stderr.decode(errors="replace")
    assert done.returncode == 0, said
    return done.stdout, said


@needs_curl
def test_curl_uploads(serve_newsroom: Start, tmp_path: Path) -> None:
    """With a length, in chunks, and only after the server has said that it wants the body."""
    served = serve_newsroom()
    photo = tmp_path / "photo"
    photo.write_bytes(os.urandom(LARGE))
    expected = {"bytes": LARGE, "sha256": hashlib.sha256(photo.read_bytes()).hexdigest()}
    url = f"{served.url}/photos"

    body, said = curl("--request", "PUT", "--data-binary", f"@{photo}", "--header", "Expect: 100-continue", url)
    assert json.loads(body) == expected
    assert said.index("< HTTP/1.1 100 Continue") < said.index("< HTTP/1.1 200 OK")
    body, said = curl("--upload-file", str(photo), "--header", "Transfer-Encoding: chunked", url)
    assert json.loads(body) == expected
    body, said = curl("--http1.0", "--upload-file", str(photo), url)
    assert json.loads(body) == expected
    assert "100 Continue" not in said
    body, said = curl("--upload-file", str(photo), "--header", "Expect: 100-continue", f"{served.url}/nowhere")
    assert "< HTTP/1.1 404 Not Found" in said


@needs_curl
def test_curl_downloads(serve_newsroom: Start) -> None:
    """HTTP/1.0 gets its stream without chunks, and several URLs share one connection."""
    served = serve_newsroom()
    body, said = curl("--http1.0", "--no-buffer", f"{served.url}/story?pause_s=0.01")
    assert len(sentences(iter(body.decode().split("\n")))) == STORY
    assert "transfer-encoding" not in said.lower()
    body, said = curl("--http1.0", "--head", f"{served.url}/docs")
    assert "< HTTP/1.1 200 OK" in said
    page = (EXAMPLE / "page.html").read_bytes()
    assert curl("--compressed", f"{served.url}/")[0] == page
    body, said = curl(*[f"{served.url}/"] * 3)
    assert body == page * 3
    assert said.count("Re-using existing connection") == 2
    assert curl("--range", "0-14", f"{served.url}/")[0] == page[:15]
