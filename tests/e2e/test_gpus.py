"""On a machine with NVIDIA GPUs: those that the driver's own tool lists are found; a replica opens the one it has.

Skipped where there is none. ``test_capacity.py`` has what the kernel of many machines says; this is a real one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable

import pytest

from harness.http import get
from harness.instance import SalverRun
from salver.engine.local import gpus


def listed() -> list[gpus.Gpu]:
    """What ``nvidia-smi`` says, in the order of the PCI bus."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=uuid,name", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        return []
    return [gpus.Gpu(*map(str.strip, line.split(",", 1))) for line in done.stdout.splitlines()]


GPUS = listed()
pytestmark = pytest.mark.skipif(not GPUS, reason="no NVIDIA GPU here")

APP = """
import ctypes, os

from salver import serve


def devices():
    cuda = ctypes.CDLL("libcuda.so.1")
    assert cuda.cuInit(0) == 0
    count = ctypes.c_int()
    assert cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
    found = []
    for index in range(count.value):
        uuid = (ctypes.c_ubyte * 16)()
        assert cuda.cuDeviceGetUuid(uuid, index) == 0
        found.append(bytes(uuid).hex())
    return found


@serve.deployment(ray_actor_options={"num_gpus": 1})
class One:
    def __call__(self, request):
        return {"visible": os.environ["CUDA_VISIBLE_DEVICES"], "devices": devices()}


app = One.bind()
"""


def test_the_driver_is_understood() -> None:
    assert gpus.gpus_of_the_driver() == GPUS


def test_nvml_says_the_same() -> None:
    assert gpus._told_by_nvml() == GPUS


def test_a_replica_opens_the_gpu_that_it_has(
    salver_run: Callable[..., SalverRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    running = salver_run("app:app", "--port", "0", files={"app.py": APP})
    answer = json.loads(get(running.url).body)
    uuid = GPUS[int(answer["visible"])].uuid
    assert answer["devices"] == [uuid.removeprefix("GPU-").replace("-", "")]
