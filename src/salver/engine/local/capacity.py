"""What this machine has for replicas to reserve: asked once, by the process that starts the instance.

Counted is what this process may use, which in a container is less than what the machine has: the CPUs of its affinity
and the quota of its control groups, their memory limit, the GPUs that CUDA_VISIBLE_DEVICES leaves. What the user has
stated goes before all of it. The answer travels to every controller of the instance, so that one that is restarted
decides as its predecessor did.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import cast

from msgspec import Struct

from salver.engine.local.gpus import (
    VISIBLE,
    Gpu,
    accelerator_types,
    gpu_of_entry,
    gpus_of_the_driver,
    numbered_entries,
    visible_gpus,
)
from salver.errors import ConfigurationError
from salver.records import Capacity


class StatedCapacity(Struct, frozen=True):
    """What the user says that the machine has; None is what it looks like.

    Attributes:
        num_cpus: more or fewer than there are.
        num_gpus: the first so many of those that are visible; more than there are is allowed.
        memory: in bytes.
        custom: resources that only the user knows of, by name.
    """

    num_cpus: float | None = None
    num_gpus: int | None = None
    memory: float | None = None
    custom: dict[str, float] = {}


NOTHING_STATED = StatedCapacity()

_OPTIONS_OF = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}


def capacity_of_this_machine(
    stated: StatedCapacity = NOTHING_STATED,
    *,
    root: Path = Path("/"),
    environment: Mapping[str, str] = os.environ,
) -> Capacity:
    """What replicas of an instance that is started here can reserve. Takes a millisecond; more where NVML is asked.

    Args:
        root: where /proc, /sys and /dev are.
        environment: of the instance.

    Raises:
        ConfigurationError: more GPUs are stated than CUDA_VISIBLE_DEVICES shows.
    """
    gpus = _gpus(stated.num_gpus, root, environment.get(VISIBLE))
    types = {f"accelerator_type:{each}": 1.0 for gpu in gpus.values() for each in accelerator_types(gpu.model)}
    return Capacity(
        num_cpus=_cpus(root) if stated.num_cpus is None else stated.num_cpus,
        gpus=tuple(gpus),
        memory=_memory(root) if stated.memory is None else stated.memory,
        custom={**types, **stated.custom},
    )


def checked_custom(resources: object) -> dict[str, float]:
    """``resources`` of a user, as amounts by name. Raises ValueError with what is wrong."""
    if not isinstance(resources, dict):
        raise ValueError('must map names to amounts, like {"licence": 2}')  # noqa: TRY004 - it is a value of the user's
    amounts = cast("dict[object, object]", resources)
    for name, amount in amounts.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"must have names that are texts, not {name!r:.80}")
        if name in _OPTIONS_OF:
            raise ValueError(f"must not contain '{name}', which is stated with {_OPTIONS_OF[name]}")
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < math.inf:
            raise ValueError(f"must have amounts that are numbers of at least 0, not {name!r}: {amount!r:.80}")
    return cast("dict[str, float]", resources)


# --- GPUs -----------------------------------------------------------------------------------------------


def _gpus(stated: int | None, root: Path, visible: str | None) -> dict[int, Gpu]:
    if stated == 0:
        return {}
    found = gpus_of_the_driver(root)
    if stated is None:
        return visible_gpus(found, visible)
    if visible is None:
        return {number: found[number] if number < len(found) else Gpu() for number in range(stated)}
    entries = numbered_entries(visible)
    if stated > len(entries):
        raise ConfigurationError(
            f"num_gpus={stated}: {VISIBLE}={visible!r} shows {len(entries)} to this instance; "
            "unset the variable, or state fewer"
        )
    return {number: gpu_of_entry(entry, found) or Gpu() for number, entry in islice(entries.items(), stated)}


# --- CPUs and memory ------------------------------------------------------------------------------------


def _cpus(root: Path) -> float:
    quotas = [*_limits(root, "cpu", "cpu.max", _quota_v2), *_limits(root, "cpu", "cpu.cfs_quota_us", _quota_v1)]
    return min([float(len(os.sched_getaffinity(0))), *quotas])


def _quota_v2(path: Path) -> float | None:
    """``200000 100000`` is two CPUs, ``max 100000`` no limit."""
    quota, period = path.read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(path: Path) -> float | None:
    quota = int(path.read_text())
    return None if quota <= 0 else quota / int(path.with_name("cpu.cfs_period_us").read_text())


def _memory(root: Path) -> float:
    limits = [
        *_limits(root, "memory", "memory.max", _bytes),
        *_limits(root, "memory", "memory.limit_in_bytes", _bytes),
    ]
    return min([_memory_of_the_machine(root), *limits])


def _bytes(path: Path) -> float | None:
    text = path.read_text().strip()
    return None if text == "max" else float(text)  # version 1 says 2^63 for no limit: the machine has less


def _memory_of_the_machine(root: Path) -> float:
    with (root / "proc/meminfo").open() as lines:
        for line in lines:
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024.0
    return 0.0


# --- control groups -------------------------------------------------------------------------------------


def _limits(root: Path, controller: str, file: str, read: Callable[[Path], float | None]) -> Iterator[float]:
    """What ``file`` says in each control group that this process is in, however deep: the smallest one counts."""
    for folder in _groups(root, controller):
        try:
            limit = read(folder / file)
        except (OSError, ValueError, ZeroDivisionError):  # no such file at this level, mostly
            continue
        if limit is not None:
            yield limit


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the groups, both versions, from ours to the outermost.

    In a container /proc tells the path as it is outside, of which inside only the end may exist, or nothing: then
    the outermost folder is the container's own group.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        group = PurePosixPath(path.strip("/"))
        for mount in [mounts / controller, mounts / names] if names else [mounts, mounts / "unified"]:
            yield from (mount / each for each in (group, *group.parents))
