"""Starting an instance: what cannot be had is an error at once, in words, with nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import stat
import tempfile
import urllib.request
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from urllib.error import HTTPError

import pytest

from harness.processes import descendants, living, role
from harness.waiting import eventually
from salver.data.http.limits import HTTPLimits
from salver.data.http.options import ProxyOptions
from salver.engine.local.instance import running_instances
from salver.engine.local.launcher import launch
from salver.errors import ConfigurationError, StartupError


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="sv-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


def folders(runtime: Path) -> list[str]:
    root = runtime / "salver"
    return sorted(each for each in os.listdir(root) if each != "logs") if root.exists() else []


def test_a_port_that_is_taken_is_named_with_its_holder(runtime: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(StartupError) as caught:
            launch(port=port)
    message = str(caught.value)
    assert message.startswith(f"port {port} on 127.0.0.1 is in use by '")
    assert f"(pid {os.getpid()})" in message
    assert message.endswith("choose another with --port, or stop that process")
    assert folders(runtime) == []


def test_a_host_that_is_none_is_named(runtime: Path) -> None:
    for host in ("no.such.host.invalid", "203.0.113.1"):  # unknown, and known but of no interface here
        with pytest.raises(StartupError, match=f"cannot listen on '?{host}"):
            launch(host=host, port=0)
    assert folders(runtime) == []


def test_an_instance_from_start_to_stop(runtime: Path) -> None:
    launched = launch(port=0, name="mine")
    instance = launched.instance
    try:
        info = instance.info()
        assert (info.name, info.host, info.proxies, info.pid) == ("mine", "127.0.0.1", 1, launched.pid)
        assert [each.name for each in running_instances()] == ["mine"]
        with pytest.raises(StartupError, match="an instance named 'mine' is running already"):
            launch(port=0, name="mine")
        with pytest.raises(HTTPError, match="404"):
            urllib.request.urlopen(info.url + "nowhere", timeout=30)
        assert stat.S_IMODE(instance.folder.lstat().st_mode) == 0o700
        for path in (instance.control_socket, instance.routing_socket, instance.key_file, instance.board):
            assert stat.S_IMODE(path.lstat().st_mode) == 0o600, path
    finally:
        launched.stop()
    assert not launched.alive
    assert folders(runtime) == []
    launched.stop()
    launched.kill()


def test_options_reach_every_proxy(runtime: Path) -> None:
    """By inheritance: neither arguments nor files hold them, for they may hold a password."""
    options = ProxyOptions(limits=HTTPLimits(header_bytes=256), root_path="/secret")
    launched = launch(port=0, proxies=2, options=options)
    try:
        for _ in range(2):
            proxies = eventually(
                "two proxies run", lambda: found if len(found := proxies_of(launched.pid)) == 2 else []
            )
            with pytest.raises(HTTPError, match="431"):
                urllib.request.urlopen(
                    urllib.request.Request(launched.instance.info().url, headers={"x-long": "x" * 256}), timeout=30
                )
            for pid in proxies:
                os.kill(pid, signal.SIGKILL)
            eventually("they have ended", lambda killed=proxies: not living(killed))
        arguments = Path(f"/proc/{launched.pid}/cmdline").read_bytes()
        assert b"secret" not in arguments
        files = [path for path in runtime.rglob("*") if path.is_file() and path.name != "instance.json"]
        held = [path for path in files if b"secret" in path.read_bytes()]  # that one tells all but the password
        assert held == []
    finally:
        launched.stop()


def proxies_of(supervisor: int) -> list[int]:
    return [pid for pid in descendants(supervisor) if role(pid) == "proxy"]


def test_tracebacks_are_for_loopback_only(runtime: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"only with a loopback host, not '0\.0\.0\.0'"):
        launch(host="0.0.0.0", port=0, options=ProxyOptions(debug=True))
    assert folders(runtime) == []


def test_kill_ends_everything_at_once(runtime: Path) -> None:
    launched = launch(port=0)
    assert launched.instance.name == str(launched.instance.info().port)
    launched.kill()
    assert not launched.alive
    assert folders(runtime) == []
