"""Starting an instance: what cannot be had is an error at once, in words, with nothing left behind."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
import urllib.request
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from urllib.error import HTTPError

import pytest

from salver.engine.local.instance import running_instances
from salver.engine.local.launcher import launch
from salver.errors import StartupError


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="sv-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


def folders(runtime: Path) -> list[str]:
    root = runtime / "salver"
    return sorted(os.listdir(root)) if root.exists() else []


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


def test_kill_ends_everything_at_once(runtime: Path) -> None:
    launched = launch(port=0)
    assert launched.instance.name == str(launched.instance.info().port)
    launched.kill()
    assert not launched.alive
    assert folders(runtime) == []
