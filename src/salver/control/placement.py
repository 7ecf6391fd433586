"""Whether one more replica fits on the machine, and on which of its GPUs.

Everything here is bookkeeping: a reservation keeps other replicas from reserving the same, nobody from using more.
CPUs, memory and custom resources are amounts, of which only the sum counts. A GPU is a thing: a replica that needs
whole ones gets GPUs that nobody else has a share of; a fraction goes to the fullest GPU that still has room for it,
so that as many GPUs as possible stay whole. (Best fit, as Ray packs them. Spreading fractions would be kinder to the
first few, and refuse the next one who needs a GPU of its own.)

Amounts are floats as users write them, so ten times 0.1 must fit in 1: what is missing may be as little as
``_TOLERANCE``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from msgspec import Struct

from salver.records import Capacity, GpuShares, Resources

_TOLERANCE = 1e-6
"""Of a CPU, a GPU, a byte or a custom resource: far above the rounding of sums, far below what anybody reserves."""

_ACCELERATOR = "accelerator_type:"
_BYTES = ((1024**4, "TiB"), (1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))


class Unplaceable(Struct, frozen=True):
    """There is no room; ``reason`` says what is missing, for people: "needs 2 CPUs, 1.5 of 4 are free"."""

    reason: str


def place(
    capacity: Capacity, taken: Iterable[tuple[Resources, GpuShares]], wanted: Resources
) -> GpuShares | Unplaceable:
    """Find room for ``wanted`` beside what is ``taken`` already.

    Args:
        taken: of every replica that has a place: what it reserved, and the GPUs that it got for that.

    Returns:
        The GPUs to give it, empty when it wants none; or why there is no room, with everything that is missing.
    """
    if wanted == Resources():
        return ()
    reserved = list(taken)
    missing = _missing_amounts(capacity, [resources for resources, _ in reserved], wanted)
    gpus = _place_on_gpus(capacity.gpus, [shares for _, shares in reserved], wanted.num_gpus)
    if isinstance(gpus, Unplaceable):
        missing.insert(0, gpus.reason)
    elif not missing:
        return gpus
    return Unplaceable("; ".join(missing))


# --- amounts --------------------------------------------------------------------------------------------


def _missing_amounts(capacity: Capacity, reserved: list[Resources], wanted: Resources) -> list[str]:
    missing: list[str] = []
    free_cpus = _free(capacity.num_cpus, (each.num_cpus for each in reserved))
    if not _fits(wanted.num_cpus, free_cpus):
        missing.append(_needs(wanted.num_cpus, "CPU", capacity.num_cpus, free_cpus))
    free_memory = _free(capacity.memory, (each.memory for each in reserved))
    if not _fits(wanted.memory, free_memory):
        missing.append(_needs_memory(wanted.memory, capacity.memory, free_memory))
    for name, amount in wanted.custom.items():
        total = capacity.custom.get(name, 0.0)
        free = _free(total, (each.custom.get(name, 0.0) for each in reserved))
        if not _fits(amount, free):
            missing.append(_needs_custom(name, amount, capacity, free))
    return missing


def _free(total: float, parts: Iterable[float]) -> float:
    return max(0.0, total - math.fsum(parts))


def _fits(amount: float, free: float) -> bool:
    return amount <= free + _TOLERANCE


# --- GPUs -----------------------------------------------------------------------------------------------


def _place_on_gpus(gpus: tuple[int, ...], held: list[GpuShares], wanted: float) -> GpuShares | Unplaceable:
    if wanted <= 0:
        return ()
    if wanted > 1 and wanted % 1:
        return Unplaceable(f"num_gpus={wanted:g}: above 1, only whole GPUs can be reserved")
    free = {gpu: _free(1.0, (share for shares in held for index, share in shares if index == gpu)) for gpu in gpus}
    if wanted >= 1:
        return _whole_gpus(free, int(wanted))
    return _share_of_a_gpu(free, wanted)


def _whole_gpus(free: dict[int, float], wanted: int) -> GpuShares | Unplaceable:
    whole = [gpu for gpu, rest in free.items() if _fits(1.0, rest)]
    if len(whole) < wanted:
        return Unplaceable(_needs(wanted, "GPU", len(free), len(whole)))
    return tuple((gpu, 1.0) for gpu in whole[:wanted])


def _share_of_a_gpu(free: dict[int, float], wanted: float) -> GpuShares | Unplaceable:
    if not free:
        return Unplaceable(f"needs {_number(wanted)} of a GPU, this machine has 0")
    roomy = [gpu for gpu, rest in free.items() if _fits(wanted, rest)]
    if not roomy:
        which = "its GPU has" if len(free) == 1 else f"none of its {len(free)} GPUs has more than"
        return Unplaceable(f"needs {_number(wanted)} of a GPU, {which} {_number(max(free.values()))} free")
    return ((min(roomy, key=free.__getitem__), wanted),)


# --- reasons --------------------------------------------------------------------------------------------


def _needs(amount: float, unit: str, total: float, free: float) -> str:
    """``needs 1 GPU, this machine has 0``; ``needs 2 CPUs, 1.5 of 4 are free``."""
    wanted = f"needs {_number(amount)} {unit}{'' if amount == 1 else 's'}"
    if not _fits(amount, total):
        return f"{wanted}, this machine has {_number(total)}"
    return f"{wanted}, {_number(free)} of {_number(total)} {_are(free)} free"


def _needs_memory(amount: float, total: float, free: float) -> str:
    wanted = f"needs {amount_of_bytes(amount)} of memory"
    if not _fits(amount, total):
        return f"{wanted}, this machine has {amount_of_bytes(total)}"
    return f"{wanted}, {amount_of_bytes(free)} of {amount_of_bytes(total)} are free"


def _needs_custom(name: str, amount: float, capacity: Capacity, free: float) -> str:
    total = capacity.custom.get(name, 0.0)
    if name.startswith(_ACCELERATOR) and not total:
        there = sorted(each.removeprefix(_ACCELERATOR) for each in capacity.custom if each.startswith(_ACCELERATOR))
        return f"needs a GPU of type {name.removeprefix(_ACCELERATOR)}, this machine has {', '.join(there) or 'none'}"
    wanted = f"needs {_number(amount)} of resource '{name}'"
    if not _fits(amount, total):
        return f"{wanted}, this machine has {_number(total)}"
    return f"{wanted}, {_number(free)} of {_number(total)} {_are(free)} free"


def _are(number: float) -> str:
    return "is" if _number(number) == "1" else "are"


def _number(number: float) -> str:
    """At most four decimals, none that are 0."""
    return f"{number:.4f}".rstrip("0").rstrip(".")


def amount_of_bytes(number: float) -> str:
    """``512 MiB``, ``1.5 GiB``, ``100 bytes``."""
    for size, unit in _BYTES:
        if number >= size:
            return f"{_number(round(number / size, 1))} {unit}"
    return f"{number:.0f} bytes"
