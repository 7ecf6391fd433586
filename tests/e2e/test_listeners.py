"""Who can talk to an instance: every listening socket of its processes, and the modes of its files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.instance import SalverRun, command_line
from harness.listeners import internet_listeners, unix_listeners
from harness.worker import WORKER


def test_nothing_listens_but_what_must(worker_run: Callable[..., SalverRun]) -> None:
    run = worker_run(replicas=2)
    everything = run.processes()
    assert internet_listeners(everything) == {f"tcp 127.0.0.1:{run.port}"}
    own = [str(run.folder / "control.sock"), str(run.folder / "routing.sock")]
    replicas = [str(run.folder / "r" / each["replica_id"].rpartition("#")[2]) for each in replicas_of(run)]
    assert unix_listeners(everything) == sorted(own + replicas)


def test_a_replica_holds_no_socket_that_others_listen_on(worker_run: Callable[..., SalverRun]) -> None:
    """User code runs there: it must not be able to answer in the name of the ingress or of the controller."""
    run = worker_run(replicas=2)
    for replica in replicas_of(run):
        assert internet_listeners([replica["pid"]]) == set()
        assert unix_listeners([replica["pid"]]) == [str(run.folder / "r" / replica["replica_id"].rpartition("#")[2])]


def replicas_of(run: SalverRun) -> list[dict[str, Any]]:
    return run.status()["applications"]["default"]["deployments"]["Worker"]["replicas"]


def test_the_files_are_for_this_user_only(tmp_path: Path) -> None:
    """Under a umask that would open them to everybody."""
    (tmp_path / "app.py").write_text(WORKER.replace("REPLICAS", "1"))
    salver = command_line(("salver",))[0]
    command = f"umask 000; exec {salver} run app:app --port 0"
    run = SalverRun.start("sh", "-c", command, cwd=tmp_path)
    try:
        paths = [run.folder.parent, run.folder, *run.folder.rglob("*")]
        assert {path.name for path in paths} >= {"salver", "r", "control.sock", "routing.sock", "session.key", "lock"}
        for path in paths:
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                assert stat.S_IMODE(mode) == 0o700, path
            elif stat.S_ISSOCK(mode) or path.suffix in {".key", ".board"} or path.name == "lock":
                assert stat.S_IMODE(mode) == 0o600, path
            assert path.lstat().st_uid == os.getuid()
    finally:
        run.stop()
