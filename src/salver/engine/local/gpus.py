"""Which GPUs there are, and which of them CUDA_VISIBLE_DEVICES leaves us.

The kernel module tells it below /proc: a folder per GPU, named by its address on the PCI bus, which is the order in
which the driver counts. NVML knows the same and is asked only where /proc is silent (WSL, some sandboxes): loading it
costs memory, and initializing it wakes GPUs, which can take seconds. CUDA itself is never loaded: a process that has
initialized it cannot fork.

A GPU's *number* is what reservations and status call it: its index for the driver, or, where CUDA_VISIBLE_DEVICES
names GPUs by UUID, its position there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from msgspec import Struct

VISIBLE = "CUDA_VISIBLE_DEVICES"

_ENTRY = re.compile(r"\d{1,4}|(GPU|MIG)-\S+")
_MAKERS = {"NVIDIA", "TESLA", "GEFORCE", "QUADRO", "GRAPHICS", "DEVICE"}
_NAME_BYTES = 96


class Gpu(Struct, frozen=True):
    """One GPU as the driver knows it; ``uuid`` and ``model`` are empty where it does not tell."""

    uuid: str = ""
    model: str = ""


# --- what CUDA_VISIBLE_DEVICES says -----------------------------------------------------------------------


def numbered_entries(value: str) -> dict[int, str]:
    """The GPUs that a value of CUDA_VISIBLE_DEVICES names: number and entry, in its order.

    As in CUDA, it ends before the first entry that is no name of a GPU, ``-1`` for example.
    """
    entries: list[str] = []
    for entry in map(str.strip, value.split(",")):
        if not _ENTRY.fullmatch(entry):
            break
        entries.append(entry)
    if all(entry.isdecimal() for entry in entries):
        return {int(entry): entry for entry in entries}
    return dict(enumerate(dict.fromkeys(entries)))


def visible_gpus(found: list[Gpu], value: str | None) -> dict[int, Gpu]:
    """Those of ``found`` that CUDA_VISIBLE_DEVICES (None: not set) leaves us, by number, in its order."""
    if value is None:
        return dict(enumerate(found))
    visible: dict[int, Gpu] = {}
    for number, entry in numbered_entries(value).items():
        gpu = gpu_of_entry(entry, found)
        if gpu is None:
            break
        visible[number] = gpu
    return visible


def gpu_of_entry(entry: str, found: list[Gpu]) -> Gpu | None:
    """The one that an entry of CUDA_VISIBLE_DEVICES names; of a UUID, the beginning is enough."""
    if entry.isdecimal():
        return found[int(entry)] if int(entry) < len(found) else None
    for gpu in found:
        if gpu.uuid.startswith(entry):
            return gpu
    return Gpu() if found and (entry.startswith("MIG-") or not found[0].uuid) else None  # we cannot know better


# --- what there is --------------------------------------------------------------------------------------


def gpus_of_the_driver(root: Path = Path("/")) -> list[Gpu]:
    """Every GPU that a process here can open, in the driver's order."""
    devices = {path.name for path in (root / "dev").glob("nvidia*")}
    told = _told_by_the_kernel(root, devices)
    if told:
        return told
    if "nvidiactl" in devices or (root / "dev/dxg").exists():
        told = _told_by_nvml()
    return told or [Gpu() for name in devices if re.fullmatch(r"nvidia\d+", name)]


def _told_by_the_kernel(root: Path, devices: set[str]) -> list[Gpu]:
    """Those whose device file is there: in a container, /proc shows the whole machine's.

    Where the driver's setuid helper is installed the files need not be there: it makes them at first use.
    """
    makes_devices = (root / "usr/bin/nvidia-modprobe").exists()
    found: list[Gpu] = []
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        facts = _facts(path)
        if makes_devices or f"nvidia{facts.get('Device Minor', '')}" in devices:
            found.append(Gpu(facts.get("GPU UUID", ""), facts.get("Model", "")))
    return found


def _facts(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _told_by_nvml() -> list[Gpu]:
    import ctypes

    try:
        nvml: Any = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return []
    if nvml.nvmlInit_v2():
        return []
    try:
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return []
        return [_device_of_nvml(nvml, index) for index in range(count.value)]
    finally:
        nvml.nvmlShutdown()


def _device_of_nvml(nvml: Any, index: int) -> Gpu:
    import ctypes

    handle = ctypes.c_void_p()
    uuid, model = ctypes.create_string_buffer(_NAME_BYTES), ctypes.create_string_buffer(_NAME_BYTES)
    if not nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)):
        nvml.nvmlDeviceGetUUID(handle, uuid, ctypes.c_uint(_NAME_BYTES))
        nvml.nvmlDeviceGetName(handle, model, ctypes.c_uint(_NAME_BYTES))
    return Gpu(uuid.value.decode(errors="replace"), model.value.decode(errors="replace"))


def accelerator_types(model: str) -> list[str]:
    """What ``accelerator_type`` calls a model: ``NVIDIA A100-SXM4-80GB`` is an ``A100`` and an ``A100-80G``."""
    words = [word for word in model.split() if word.upper() not in _MAKERS]
    if not words:
        return []
    chip, *details = words[0].split("-")
    if chip == "RTX" and len(words) > 1:
        return [f"RTX-{words[1]}"]
    sizes = [re.fullmatch(r"(\d+)GB", each) for each in [*details, *words[1:]]]
    return [chip, *(f"{chip}-{size[1]}G" for size in sizes if size)]
