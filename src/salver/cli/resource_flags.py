"""The flags that say what the machine has for replicas. The command gets them as one record."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import click
import msgspec

from salver.cli.sections import SectionedOption
from salver.cli.size import size
from salver.engine.local.capacity import StatedCapacity, checked_custom


def _cpus(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise click.BadParameter(f"{value!r} is not a number of at least 0.")
    return number


def _custom(value: str) -> dict[str, float]:
    try:
        return checked_custom(msgspec.json.decode(value))
    except msgspec.DecodeError as error:
        raise click.BadParameter(f"is not JSON: {error}.") from None
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


def _flag(name: str, **attributes: Any) -> Any:
    return click.option(name, cls=SectionedOption, section="Resources", show_default=False, **attributes)


_FLAGS = (
    _flag("--num-cpus", metavar="NUMBER", type=_cpus, help="CPUs that replicas can reserve; default all."),
    _flag(
        "--num-gpus",
        metavar="NUMBER",
        type=click.IntRange(0, 1024),
        help="GPUs likewise; default those that the driver and CUDA_VISIBLE_DEVICES show.",
    ),
    _flag("--memory", metavar="SIZE", type=size, help="Memory likewise, in bytes or with K, M, G; default all."),
    _flag(
        "--resources",
        metavar="JSON",
        type=_custom,
        default="{}",
        help="""Resources of your own, like '{"licence": 2}'.""",
    ),
)
_NAMES = ("num_cpus", "num_gpus", "memory", "resources")


def resource_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flags to a command; it gets them as one argument, ``stated``.

    The command is not called, and exits with 2, when a flag was given together with ``--instance``, which has
    counted its machine already.
    """

    @wraps(command)
    def with_resources(**values: Any) -> None:
        cpus, gpus, memory, custom = (values.pop(name) for name in _NAMES)
        stated = StatedCapacity(cpus, gpus, memory, custom)
        if values.get("instance") is not None and stated != StatedCapacity():
            raise click.UsageError(
                "--num-cpus, --num-gpus, --memory and --resources: not with --instance, which runs."
            )
        command(stated=stated, **values)

    for flag in reversed(_FLAGS):
        with_resources = flag(with_resources)
    return with_resources
