"""Large arrays and tensors through handles: shared, read-only, and nothing of them left, whoever dies."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.instance import new_runtime_folder
from harness.waiting import eventually
from salver import serve
from salver.data.shared_memory import SHARED_FROM_BYTES
from salver.serve.exceptions import ReplicaUnavailableError
from salver.serve.handle import DeploymentHandle

WITHIN_S = 60.0
SIZE = 2 * SHARED_FROM_BYTES
Array = np.ndarray[Any, Any]


def shared_memory_of(pid: int | str) -> tuple[int, int]:
    """Descriptors and mappings of shared memory that a process has."""
    descriptors = 0
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            descriptors += os.readlink(f"/proc/{pid}/fd/{entry}").startswith("/memfd:salver")
        except FileNotFoundError:
            pass
    return descriptors, Path(f"/proc/{pid}/maps").read_text().count("/memfd:salver")


@serve.deployment(max_ongoing_requests=8)
class Store:
    def __init__(self) -> None:
        gc.disable()  # nothing may wait for it
        self.entered = 0

    def pid(self) -> int:
        return os.getpid()

    def total(self, array: Array) -> tuple[int, bool]:
        return int(array.sum()), array.flags.writeable

    def collect(self) -> None:
        gc.collect()

    def give(self, size: int) -> Array:
        return np.ones(size, dtype=np.uint8)

    def same(self, value: Any) -> Any:
        return value

    async def hold(self, array: Array) -> Array:
        self.entered += 1
        await asyncio.sleep(1000)
        return array

    def how_many_entered(self) -> int:
        return self.entered

    async def stream(self, count: int) -> AsyncIterator[Array]:
        for number in range(count):
            yield np.full(SIZE, number % 251, dtype=np.uint8)

    def stream_from_thread(self, count: int) -> Iterator[Array]:
        for number in range(count):
            yield np.full(SIZE, number % 251, dtype=np.uint8)

    def memory(self) -> tuple[int, int]:
        return shared_memory_of("self")


@pytest.fixture
def store(instance_url: str) -> Iterator[DeploymentHandle[Any]]:
    gc.collect()
    gc.disable()
    try:
        yield serve.run(Store.bind())
    finally:
        gc.enable()


def assert_all_freed(store: DeploymentHandle[Any]) -> None:
    eventually("this process has let everything go", lambda: shared_memory_of("self") == (0, 0), WITHIN_S)
    eventually("so has the replica", lambda: store.memory.remote().result(timeout_s=WITHIN_S) == (0, 0), WITHIN_S)


def test_arguments_and_results(store: DeploymentHandle[Any]) -> None:
    array = np.arange(10_000_000, dtype=np.uint8)
    assert store.total.remote(array).result(timeout_s=WITHIN_S) == (int(array.sum()), False)
    result = store.same.remote({"a": [array], "b": 1}).result(timeout_s=WITHIN_S)
    assert np.array_equal(result["a"][0], array)
    assert not result["a"][0].flags.writeable
    eventually("of the result only its mapping is left", lambda: shared_memory_of("self") == (0, 1), WITHIN_S)
    passed_on = store.total.remote(store.give.remote(SIZE)).result(timeout_s=WITHIN_S)
    assert passed_on == (SIZE, False)
    del result
    assert_all_freed(store)


def test_tensors(store: DeploymentHandle[Any]) -> None:
    torch = pytest.importorskip("torch")
    store.same.remote(torch.ones(1)).result(timeout_s=WITHIN_S)
    store.collect.remote().result(timeout_s=WITHIN_S)  # importing torch leaves cycles, with frames of ours in them
    gc.collect()
    tensor = torch.arange(1_000_000, dtype=torch.float32).reshape(1000, 1000)
    sent = [tensor.t(), tensor.to(torch.bfloat16), torch.nn.Parameter(tensor)]
    result = store.same.remote(sent).result(timeout_s=WITHIN_S)
    assert all(torch.equal(a, b) for a, b in zip(result, sent, strict=True))
    result[0][0, 0] = 5
    assert shared_memory_of("self")[1] > 0
    del result
    assert_all_freed(store)


@pytest.mark.parametrize("method", ["stream", "stream_from_thread"])
def test_streamed_items(store: DeploymentHandle[Any], method: str) -> None:
    items = store.options(method_name=method, stream=True).remote(100)
    most = 0
    for number, item in enumerate(items):
        assert (item.nbytes, item[0], item[-1], item.flags.writeable) == (SIZE, number, number, False)
        most = max(most, shared_memory_of("self")[0])
    assert number == 99
    assert most <= 2, "what waits here is bounded by credit, in which shared bytes count"
    del item
    assert_all_freed(store)


def test_a_stream_that_is_left_early(store: DeploymentHandle[Any]) -> None:
    for method in ("stream", "stream_from_thread") * 10:
        items = store.options(method_name=method, stream=True).remote(100)
        assert next(items)[0] == 0
        items.cancel()
    del items
    assert_all_freed(store)


def test_thousands_of_calls_leave_nothing(store: DeploymentHandle[Any]) -> None:
    array = np.ones(SHARED_FROM_BYTES, dtype=np.uint8)

    async def worker() -> None:
        for _ in range(250):
            assert (await store.same.remote(array)).nbytes == SHARED_FROM_BYTES

    async def workers() -> None:
        await asyncio.gather(*(worker() for _ in range(8)))

    asyncio.run(workers())
    assert_all_freed(store)


def test_cancelled_calls_leave_nothing(store: DeploymentHandle[Any]) -> None:
    array = np.ones(SHARED_FROM_BYTES, dtype=np.uint8)
    for number in range(300):  # in the replica, on the way there, on the way back, and in the queue
        calls = [store.hold.remote(array), store.same.remote(array), store.give.remote(SIZE)]
        if number % 3 == 0:
            calls[1].result(timeout_s=WITHIN_S)
        for call in calls:
            call.cancel()
    del call, calls
    assert store.total.remote(array).result(timeout_s=WITHIN_S) == (SHARED_FROM_BYTES, False)
    assert_all_freed(store)


def test_more_than_may_be_shared_at_once_goes_through_the_socket(store: DeploymentHandle[Any]) -> None:
    array = np.ones(SHARED_FROM_BYTES, dtype=np.uint8)
    calls = [store.total.remote(array) for _ in range(300)]
    assert shared_memory_of("self")[0] <= 256
    answers = [call.result(timeout_s=WITHIN_S) for call in calls]
    assert {total for total, _ in answers} == {SHARED_FROM_BYTES}
    assert_all_freed(store)


def test_a_killed_replica_takes_nothing_along(store: DeploymentHandle[Any]) -> None:
    array = np.ones(SIZE, dtype=np.uint8)
    pid = store.pid.remote().result(timeout_s=WITHIN_S)
    held = [store.hold.remote(array) for _ in range(4)]
    eventually("they run", lambda: store.how_many_entered.remote().result(timeout_s=WITHIN_S) == 4, WITHIN_S)
    kept = store.give.remote(SIZE).result(timeout_s=WITHIN_S)
    stop = threading.Event()

    def keep_calling() -> None:
        while not stop.is_set():
            try:
                assert store.give.remote(SIZE).result(timeout_s=WITHIN_S)[-1] == 1
            except ReplicaUnavailableError:
                pass

    def pid_now() -> int | None:
        try:
            return store.pid.remote().result(timeout_s=WITHIN_S)
        except ReplicaUnavailableError:
            return None

    caller = threading.Thread(target=keep_calling)
    caller.start()
    os.kill(pid, signal.SIGKILL)
    for call in held:
        with pytest.raises(ReplicaUnavailableError):
            call.result(timeout_s=WITHIN_S)
    eventually("another one serves", lambda: pid_now() not in (None, pid), WITHIN_S)
    stop.set()
    caller.join()
    assert int(kept.sum()) == SIZE, "what arrived before stays"
    del kept
    assert_all_freed(store)


CALLER = """
import sys, threading
import numpy as np
from salver import serve
handle = serve.get_app_handle("default")
array = np.ones(2 * 2**20, dtype=np.uint8)
held = [handle.hold.remote(array) for _ in range(4)]
items = handle.options(method_name="stream", stream=True).remote(10**9)
next(items)
while True:
    handle.same.remote(array).result()
    print("called", flush=True)
"""


def test_a_killed_caller_takes_nothing_along(store: DeploymentHandle[Any]) -> None:
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", CALLER], stdout=subprocess.PIPE) as caller:
            assert caller.stdout is not None
            for _ in range(10):
                assert caller.stdout.readline() == b"called\n"
            caller.kill()  # somewhere in the next call
        assert_all_freed(store)


IN_A_NAMESPACE = """
import os, subprocess, sys
import numpy as np
from salver import serve

def named_shared_memory_dies() -> bool:
    code = (
        "from multiprocessing.shared_memory import SharedMemory; import os\\n"
        "memory = SharedMemory(create=True, size=10_000_000)\\n"
        "memory.unlink()\\n"
        "memory.buf[:] = bytes(10_000_000)"
    )
    return subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode != 0

@serve.deployment
class Store:
    def same(self, value): return value, len(os.listdir("/dev/shm"))

serve.start(http_options={"port": 0})
handle = serve.run(Store.bind())
array = np.arange(50_000_000, dtype=np.uint8)
result, files = handle.same.remote(array).result()
assert np.array_equal(result, array) and not result.flags.writeable
assert (files, os.statvfs("/dev/shm").f_blocks * 4096 <= 65536) == (0, True)
assert named_shared_memory_dies()
open("/dev/shm/full", "wb", 0).write(bytes(65536))
result, files = handle.same.remote(array).result()
assert np.array_equal(result, array)
serve.shutdown()
print("served")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_tiny_and_a_full_dev_shm_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "driver.py").write_text(IN_A_NAMESPACE)
    probe = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/dev/shm"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    script = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$0" driver.py'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable],
        cwd=tmp_path,
        env={**os.environ, "XDG_RUNTIME_DIR": str(new_runtime_folder())},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout.endswith("served\n"), done.stderr
    assert done.returncode == 0, done.stderr


def test_an_array_of_10_mb_comes_through_fast(store: DeploymentHandle[Any]) -> None:
    """1 GB/s is the target, which an idle machine reaches; a fifth of it does on a busy one."""
    array = np.ones(10_000_000, dtype=np.uint8)
    best: dict[str, float] = {}
    calls: dict[str, Callable[[], Any]] = {
        "argument": lambda: store.total.remote(array).result(timeout_s=WITHIN_S),
        "result": lambda: store.give.remote(10_000_000).result(timeout_s=WITHIN_S),
    }
    for name, call in calls.items():
        for _ in range(20):
            start = time.perf_counter()
            call()
            best[name] = max(best.get(name, 0), array.nbytes / 1e9 / (time.perf_counter() - start))
    assert min(best.values()) > 0.2, best
