"""The instance's folder: for one user, found by name, and never a dead one's."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from salver.engine.local.instance import (
    Instance,
    InstanceInfo,
    create_instance,
    find_instance,
    instances_root,
    running_instances,
)
from salver.errors import StartupError


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


Run = Callable[[str], tuple[Instance, Callable[[], None]]]


@pytest.fixture
def make_running(runtime: Path) -> Generator[Run]:
    """``make_running(name)``: an instance whose lock is held, and how its supervisor dies."""
    with ExitStack() as stack:

        def run(name: str) -> tuple[Instance, Callable[[], None]]:
            instance, lock = create_instance(name)
            info = InstanceInfo(name, 1, "127.0.0.1", 8000 + len(name), 1, 0.0, "0")
            instance.info_file.write_bytes(msgspec.json.encode(info))
            dead = stack.enter_context(ExitStack())
            dead.callback(os.close, lock)
            return instance, dead.close

        yield run


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# --- the folder of all instances ------------------------------------------------------------------------


def test_the_root_is_in_the_runtime_folder_and_private(runtime: Path) -> None:
    before = os.umask(0)
    try:
        root = instances_root()
    finally:
        os.umask(before)
    assert root == runtime / "salver"
    assert mode(root) == 0o700
    assert instances_root() == root


@pytest.mark.parametrize("setting", ["", "/nonexistent/folder"])
def test_without_a_runtime_folder_it_is_in_the_temporary_one(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", setting)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    root = instances_root()
    assert root == tmp_path / f"salver-{os.getuid()}"
    assert mode(root) == 0o700


@pytest.mark.parametrize("others", [0o755, 0o750, 0o701, 0o777])
def test_a_root_that_others_may_enter_is_refused(others: int, runtime: Path) -> None:
    root = runtime / "salver"
    root.mkdir()
    root.chmod(others)
    with pytest.raises(StartupError, match="not a folder of yours alone") as caught:
        instances_root()
    assert str(root) in str(caught.value)
    assert mode(root) == others, "not repaired in silence: somebody may have put something in it"


def test_a_link_or_a_file_in_its_place_is_refused(runtime: Path) -> None:
    elsewhere = runtime / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (runtime / "salver").symlink_to(elsewhere)
    with pytest.raises(StartupError, match="not a folder of yours alone"):
        instances_root()
    (runtime / "salver").unlink()
    (runtime / "salver").write_text("")
    with pytest.raises((StartupError, FileExistsError)):
        instances_root()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to somebody else")
def test_a_root_of_somebody_else_is_refused(runtime: Path) -> None:
    root = instances_root()
    os.chown(root, 65534, 65534)
    with pytest.raises(StartupError):
        instances_root()


# --- one instance ---------------------------------------------------------------------------------------


def test_a_new_instance_is_private_and_locked(runtime: Path) -> None:
    before = os.umask(0)
    try:
        instance, lock = create_instance("8000")
    finally:
        os.umask(before)
    assert instance.folder == runtime / "salver" / "8000"
    assert instance.name == "8000"
    assert mode(instance.folder) == mode(instance.replica_sockets) == 0o700
    assert mode(instance.lock_file) == 0o600
    assert instance.is_running()
    assert instance.routing_address == f"unix:{instance.folder}/routing.sock"
    os.close(lock)
    assert not instance.is_running()
    instance.remove()
    instance.remove()
    assert not instance.folder.exists()
    assert not instance.is_running()


def test_the_lock_is_held_by_whoever_inherited_it(runtime: Path) -> None:
    instance, lock = create_instance("a")
    inherited = os.dup(lock)
    os.close(lock)
    assert instance.is_running(), "the supervisor has it, the launcher has closed its own"
    os.close(inherited)
    assert not instance.is_running()


def test_looking_does_not_disturb(make_running: Run) -> None:
    instance, _ = make_running("a")
    for _ in range(3):
        assert instance.is_running()
    descriptor = os.open(instance.lock_file, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_a_running_instance_keeps_its_name(make_running: Run) -> None:
    instance, die = make_running("a")
    (instance.folder / "precious").write_text("")
    with pytest.raises(FileExistsError):
        create_instance("a")
    assert (instance.folder / "precious").exists()
    die()
    again, lock = create_instance("a")
    assert not (again.folder / "precious").exists(), "leftovers of the dead one are gone"
    os.close(lock)


def test_the_key_is_refused_when_others_could_have_read_it(runtime: Path) -> None:
    instance, lock = create_instance("a")
    instance.key_file.touch(mode=0o600)
    instance.key_file.write_bytes(b"secret")
    assert instance.key() == b"secret"
    for others in (0o640, 0o604, 0o660):
        instance.key_file.chmod(others)
        with pytest.raises(StartupError, match="readable by others") as caught:
            instance.key()
        assert str(instance.key_file) in str(caught.value)
    instance.key_file.chmod(0o600)
    elsewhere = runtime / "key"
    elsewhere.write_bytes(b"planted")
    elsewhere.chmod(0o600)
    instance.key_file.unlink()
    instance.key_file.symlink_to(elsewhere)
    with pytest.raises(StartupError):
        instance.key()
    os.close(lock)


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8000/"), ("::1", "http://[::1]:8000/"), ("localhost", "http://localhost:8000/")],
)
def test_the_url(host: str, url: str) -> None:
    info = InstanceInfo("a", 1, host, 8000, 1, 0.0, "0")
    assert info.url == url
    assert structs.replace(info, tls=True).url == url.replace("http:", "https:")


def test_starting_and_looking_at_the_same_time(runtime: Path) -> None:
    """Whoever clears away what is dead must not take what is just being made for it."""
    instances_root()
    over = threading.Event()
    made: list[str] = []

    def start_and_end(name: str) -> None:
        for _ in range(20):
            instance, lock = create_at_last(name)
            assert instance.lock_file.exists()
            assert instance.replica_sockets.is_dir()
            made.append(name)
            os.close(lock)

    def create_at_last(name: str) -> tuple[Instance, int]:
        while True:
            try:
                return create_instance(name)
            except FileExistsError:  # one of the others has it just now
                pass

    def look() -> None:
        while not over.is_set():
            running_instances()

    with ThreadPoolExecutor(6) as pool:
        looking = [pool.submit(look) for _ in range(2)]
        starting = [pool.submit(start_and_end, name) for name in ("same", "same", "same", "other")]
        try:
            for each in starting:
                each.result(60)
        finally:
            over.set()
        for each in looking:
            each.result(60)
    assert (made.count("same"), made.count("other")) == (60, 20)


# --- finding one ----------------------------------------------------------------------------------------


def test_leftovers_of_the_dead_are_removed_by_whoever_looks(make_running: Run) -> None:
    alive, _ = make_running("alive")
    dead, die = make_running("dead")
    assert [instance.name for instance in running_instances()] == ["alive", "dead"]
    die()
    assert [instance.name for instance in running_instances()] == ["alive"]
    assert not dead.folder.exists()
    assert alive.folder.exists()


def test_what_is_not_an_instance_is_left_alone(make_running: Run) -> None:
    make_running("alive")
    stranger = instances_root() / "notes"
    stranger.mkdir()
    (stranger / "text").write_text("")
    (instances_root() / "file").write_text("")
    assert [instance.name for instance in running_instances()] == ["alive"]
    assert (stranger / "text").exists()


def test_one_that_is_still_starting_is_neither_listed_nor_removed(runtime: Path) -> None:
    instance, lock = create_instance("starting")
    assert running_instances() == []
    assert instance.folder.exists()
    os.close(lock)


def test_finding_by_name_or_the_only_one(make_running: Run) -> None:
    make_running("one")
    assert find_instance().name == "one"
    assert find_instance("one").name == "one"
    make_running("other")
    assert find_instance("other").name == "other"


def test_finding_none(runtime: Path) -> None:
    with pytest.raises(LookupError) as caught:
        find_instance()
    assert str(caught.value) == "No instance is running. Start one with `salver run module:app`."
    with pytest.raises(LookupError) as caught:
        find_instance("8000")
    assert str(caught.value) == "No instance named '8000' is running. None is."


def test_finding_too_many_or_another_lists_them(make_running: Run) -> None:
    make_running("one")
    make_running("three")
    listing = "\n  one          http://127.0.0.1:8003/\n  three        http://127.0.0.1:8005/"
    with pytest.raises(LookupError) as caught:
        find_instance()
    assert str(caught.value) == f"Several instances are running: choose one with --instance NAME.{listing}"
    with pytest.raises(LookupError) as caught:
        find_instance("two")
    assert str(caught.value) == f"No instance named 'two' is running.{listing}"
