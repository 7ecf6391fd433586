"""A browser and ``examples/newsroom``: its page works, and its events go on when a replica dies."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import trustme

from e2e.browser import Reports, browsing, find_browser
from harness.instance import SalverRun
from harness.processes import title
from harness.waiting import eventually

pytestmark = [
    pytest.mark.skipif(find_browser() is None, reason="no Chromium on this machine"),
    pytest.mark.timeout(240),
]

EXAMPLE = Path(__file__).parents[2] / "examples" / "newsroom"
WITHIN_S = 60.0
STORY = 7

WORKS_IT = """
  const said = list => [...list.children].map(item => item.textContent);
  follow.elements.pause.value = 0.1;
  follow.requestSubmit();
  await until(() => follow.querySelector("output").value === "7 sentences");
  report({story: said(story)});

  rank.requestSubmit();
  await until(() => rank.querySelector("output").value);
  report({rank: rank.querySelector("output").value});

  await until(() => socket.readyState === WebSocket.OPEN);
  for (const text of ["who?", "naïve 🙂?"]) {
    ask.elements.text.value = text;
    ask.requestSubmit();
  }
  await until(() => chat.children.length === 2);
  report({chat: said(chat)});

  translate.elements.language.value = "fr";
  translate.requestSubmit();
  await until(() => translate.querySelector("output").value);
  report({translation: translate.querySelector("output").value});

  const files = new DataTransfer();
  files.items.add(new File([new Uint8Array(3_000_000)], "photo"));
  send.elements.photo.files = files.files;
  send.requestSubmit();
  await until(() => send.querySelector("output").value);
  report({photo: send.querySelector("output").value});
  socket.close(3000, "done");
"""

FOLLOWS_SLOWLY = """
  follow.elements.pause.value = 2;
  follow.requestSubmit();
  const seen = {opened: 0, told: [], ids: [], chat: []};
  events.addEventListener("open", () => seen.opened++);
  events.addEventListener("message", event => seen.ids.push(Number(event.lastEventId)));
  events.addEventListener("error", event => event.data && seen.told.push(JSON.parse(event.data).type));
  socket.addEventListener("close", event => seen.chat.push(event.code, event.reason));
  await until(() => story.children.length === 2 && socket.readyState === WebSocket.OPEN);
  report("two");
  await until(() => follow.querySelector("output").value === "7 sentences");
  report({...seen, sentences: story.children.length});
"""


@pytest.fixture
def reports() -> Generator[Reports]:
    server = Reports()
    yield server
    server.close()


@pytest.fixture
def newsroom(salver_run: Callable[..., SalverRun], tmp_path: Path, reports: Reports) -> Callable[..., SalverRun]:
    """``newsroom(script, "--proxies", "2")``: the example, whose page works itself by ``script``."""

    def start(script: str, *argv: str) -> SalverRun:
        shutil.copy(EXAMPLE / "newsroom.py", tmp_path)
        page = (EXAMPLE / "page.html").read_text()
        (tmp_path / "page.html").write_text(reports.driven(page, script))
        return salver_run("newsroom:app", "--port", "0", *argv)

    return start


@pytest.fixture
def profile() -> Generator[Path]:
    """A folder for what Chromium writes; it may still be writing when it is killed."""
    folder = Path(tempfile.mkdtemp(prefix="sb-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def certificate(folder: Path) -> tuple[str, ...]:
    made = trustme.CA().issue_cert("127.0.0.1")
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(each.bytes() for each in made.cert_chain_pems))
    key.write_bytes(made.private_key_pem.bytes())
    key.chmod(0o600)
    return ("--ssl-certfile", str(chain), "--ssl-keyfile", str(key))


def victims(run: SalverRun, name: str) -> list[int]:
    """The proxy, or the replica of a deployment."""
    pids = run.pids()
    return pids["proxy"] if name == "proxy" else [pid for pid in pids["replica"] if f"#{name}#" in title(pid)]


@pytest.mark.parametrize("behind", ["plain", "prefix, TLS, two proxies"])
def test_the_page_works(
    newsroom: Callable[..., SalverRun], tmp_path: Path, reports: Reports, profile: Path, behind: str
) -> None:
    """EventSource in order, fetch with JSON, a WebSocket, a header of ours, an upload: as a user clicks."""
    argv = () if behind == "plain" else ("--route-prefix", "/news", "--proxies", "2", *certificate(tmp_path))
    run = newsroom(WORKS_IT, *argv)
    with browsing(run.url, profile):
        story = reports.next(WITHIN_S)["story"]
        assert (len(story), story[0], story[-1]) == (STORY, "A ship has run aground.", "She floats again!")
        assert story[4] == "“Überraschend”, says a seal."
        assert reports.next(WITHIN_S) == {"rank": "score 3"}
        assert reports.next(WITHIN_S) == {"chat": ["1. who? Print it.", "2. naïve 🙂? Print it."]}
        assert reports.next(WITHIN_S) == {"translation": "le navire est libre"}
        assert reports.next(WITHIN_S) == {"photo": "3000000 bytes, 35bce4eae54e…"}
    assert "Traceback" not in run.output(), run.output()


@pytest.mark.parametrize(
    ("victim", "told", "chat"),
    [
        ("Newsroom", ["urn:salver:problem:replica-died"], [1011, "The replica died while it handled this request."]),
        ("NewsWire", ["urn:salver:problem:replica-died"], []),
        ("proxy", [], [1006, ""]),
    ],
)
def test_events_go_on_when_a_process_dies(
    newsroom: Callable[..., SalverRun], reports: Reports, profile: Path, victim: str, told: list[str], chat: list[str]
) -> None:
    """The page hears of it. The browser dials again, says how far it got, misses nothing."""
    run = newsroom(FOLLOWS_SLOWLY)
    with browsing(run.url, profile):
        assert reports.next(WITHIN_S) == "two"
        [killed] = victims(run, victim)
        os.kill(killed, signal.SIGKILL)
        seen = reports.next(WITHIN_S)
    assert seen == {"opened": 2, "told": told, "ids": list(range(STORY)), "chat": chat, "sentences": STORY}
    eventually("another process", lambda: set(victims(run, victim)) - {killed}, WITHIN_S)
