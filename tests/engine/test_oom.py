"""Reading the kernel's count of killings for memory: both versions of cgroups, containers, and none at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from salver.engine.local.oom import OOMKills

V1 = "4:memory:/jobs/one\n3:cpuset:/\n1:name=systemd:/\n0::/jobs/one\n"
V2 = "0::/jobs/one\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"
EVENTS = "low 0\nhigh 0\nmax 12\noom 3\noom_kill {}\noom_group_kill 9\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("membership", "counter", "text"),
    [
        (V1, "memory/jobs/one/memory.oom_control", CONTROL),
        (V1, "memory/memory.oom_control", CONTROL),  # a container: the path is the host's
        (V2, "jobs/one/memory.events", EVENTS),
        (V2, "memory.events", EVENTS),
        ("4:cpu,memory:/\n0::/\n", "memory/memory.oom_control", CONTROL),
    ],
)
def test_a_killing_is_noticed_once(tmp_path: Path, membership: str, counter: str, text: str) -> None:
    path = write(tmp_path / "cgroup" / counter, text.format(5))
    kills = OOMKills(write(tmp_path / "membership", membership), tmp_path / "cgroup")
    assert not kills.happened(), "what was before is not news"
    path.write_text(text.format(6))
    assert kills.happened()
    assert not kills.happened()
    path.unlink()
    assert not kills.happened(), "the cgroup was removed"


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        (V2, {}),
        ("", {}),
        ("nonsense\n", {}),
        (V2, {"jobs/one/memory.events": "oom_kill many\n"}),
        (V2, {"memory.events": ""}),
    ],
)
def test_where_nothing_is_known_nothing_is_said(tmp_path: Path, membership: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        write(tmp_path / "cgroup" / name, text)
    kills = OOMKills(write(tmp_path / "membership", membership), tmp_path / "cgroup")
    assert not kills.happened()


def test_without_the_file_that_says_where_we_are(tmp_path: Path) -> None:
    assert not OOMKills(tmp_path / "missing", tmp_path).happened()
