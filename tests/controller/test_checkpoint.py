"""The target on disk: the last generation or the one before, never nothing by mistake."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from salver.controller.checkpoint import Checkpoint, FileCheckpoint, MemoryCheckpoint
from salver.errors import StartupError
from salver.records import ApplicationSpec, AutoscalingSpec, CodeContext, DeploymentId, DeploymentSpec, Target


def target(number: int) -> Target:
    deployment = DeploymentSpec(
        DeploymentId("app", "d"),
        f"v{number}",
        b"\x00\xff" * 100,
        options={"n": [1, None]},
        autoscaling=AutoscalingSpec(max_replicas=4),
    )
    applications = (
        ApplicationSpec("app", "/", "d", (deployment,), CodeContext(("/a", ""), "/cwd", ("m:f",), {"A": "b"})),
        ApplicationSpec("second", None, "d", (), config={"name": "second"}),
    )
    return Target(applications, applications[:1], {"app#d": number}, 50.0)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.target"))


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_newest_target_is_loaded(in_memory: bool, tmp_path: Path) -> None:
    checkpoint: Checkpoint = MemoryCheckpoint() if in_memory else FileCheckpoint(tmp_path / "state", 1)
    assert checkpoint.load() == Target()
    for number in range(12):
        checkpoint.save(target(number))
        assert checkpoint.load() == target(number)
    checkpoint.save(Target())
    assert checkpoint.load() == Target()


def test_a_new_controller_finds_what_the_last_one_saved_and_three_generations_are_kept(tmp_path: Path) -> None:
    for epoch in range(1, 6):
        checkpoint = FileCheckpoint(tmp_path, epoch)
        checkpoint.save(target(epoch))
    assert FileCheckpoint(tmp_path, 6).load() == target(5)
    assert len(files(tmp_path)) == 3
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} <= {0o044}, "the folder keeps others out"


def test_a_controller_that_was_replaced_and_wakes_up_late_changes_nothing(tmp_path: Path) -> None:
    old, new = FileCheckpoint(tmp_path, 1), FileCheckpoint(tmp_path, 2)
    new.save(target(2))
    for _ in range(5):
        old.save(target(1))
    assert FileCheckpoint(tmp_path, 3).load() == target(2)


def test_every_truncation_and_every_changed_byte_gives_the_generation_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = FileCheckpoint(tmp_path, 1)
    checkpoint.save(target(1))
    checkpoint.save(target(2))
    newest = files(tmp_path)[-1]
    whole = newest.read_bytes()
    format_at = whole.index(b"2")
    damaged = [whole[:length] for length in range(len(whole))]
    damaged += [
        whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :] for at in range(len(whole)) if at != format_at
    ]
    for data in damaged:
        newest.write_bytes(data)
        assert checkpoint.load() == target(1)
    assert str(newest) in caplog.text, "it is said"
    newest.write_bytes(whole)
    assert checkpoint.load() == target(2)


def test_nothing_readable_is_refused_with_every_path_and_reason(tmp_path: Path) -> None:
    checkpoint = FileCheckpoint(tmp_path, 1)
    for number in range(3):
        checkpoint.save(target(number))
    for path in files(tmp_path):
        path.write_bytes(b"")
    with pytest.raises(StartupError, match="no saved state can be read") as caught:
        checkpoint.load()
    assert all(str(path) in str(caught.value) for path in files(tmp_path))
    assert len(files(tmp_path)) == 3, "left as they are, for whoever repairs them"


def test_a_newer_format_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    checkpoint = FileCheckpoint(tmp_path, 1)
    checkpoint.save(target(1))
    checkpoint.save(target(2))
    newest = files(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes().replace(b"salver-target 2 ", b"salver-target 99 ", 1))
    with pytest.raises(StartupError, match="has format 99, and this version of Salver reads 2") as caught:
        checkpoint.load()
    assert str(newest) in str(caught.value)


def test_a_folder_that_cannot_be_had_is_a_startup_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="cannot be used: Not a directory"):
        FileCheckpoint(tmp_path / "file" / "state", 1).load()


ON_A_SMALL_DISK = """
import sys
from pathlib import Path
from salver.controller.checkpoint import FileCheckpoint
from salver.records import Target
folder = Path(sys.argv[1]) / "state"
checkpoint = FileCheckpoint(folder, 1)
checkpoint.load()
checkpoint.save(Target(replicas={"a": 1}))
filler = open(folder.parent / "filler", "wb", 0)
try:
    while True:
        filler.write(bytes(4096))
except OSError:
    pass
try:
    checkpoint.save(Target(replicas={"b" * 10000: 2}))
except OSError as error:
    print(error.strerror)
assert FileCheckpoint(folder, 2).load() == Target(replicas={"a": 1})
assert not list(folder.glob("*.new"))
filler.truncate(0)
checkpoint.save(Target(replicas={"c": 3}))
assert FileCheckpoint(folder, 2).load() == Target(replicas={"c": 3})
print("done")
"""


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("unshare") is None, reason="needs root, to mount a small disk")
def test_a_full_disk_leaves_the_generation_before(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(["unshare", "-m", *mount], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    script = f'{" ".join(mount)} && exec "$0" -c "$1" {tmp_path}'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable, ON_A_SMALL_DISK],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines() == ["No space left on device", "done"], done.stderr
