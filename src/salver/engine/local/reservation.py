"""What the environment of a replica says of what it has reserved: set before anything of the user's is imported.

GPUs are what libraries of CUDA look for when they start, so a replica sees its own, under the names that the instance
has for them. One that has reserved none sees none, as in Ray, where the instance has GPUs to be reserved: else it
would take memory of GPUs that others believe to have for themselves.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from salver.engine.interface import ReplicaProcess
from salver.engine.local.gpus import VISIBLE, numbered_entries

_THREADS = "OMP_NUM_THREADS"
_ORDER = "CUDA_DEVICE_ORDER"


def announce_reservation(process: ReplicaProcess, gpus: tuple[int, ...]) -> None:
    """Set the variables of this process, which is that of the replica; ``gpus``: those of the instance."""
    os.environ.update(reservation_variables(process, gpus, os.environ))


def reservation_variables(
    process: ReplicaProcess, gpus: tuple[int, ...], environment: Mapping[str, str]
) -> dict[str, str]:
    """CUDA_VISIBLE_DEVICES where the instance has GPUs; OMP_NUM_THREADS where CPUs are stated and it is not set.

    CUDA counts the fastest GPU first, the driver by the bus: where the numbers are the driver's, CUDA is told so.
    """
    variables: dict[str, str] = {}
    if gpus:
        if VISIBLE not in environment and _ORDER not in environment:
            variables[_ORDER] = "PCI_BUS_ID"
        entries = numbered_entries(environment.get(VISIBLE, ""))
        variables[VISIBLE] = ",".join(entries.get(number, str(number)) for number, _ in process.gpus)
    if process.resources.num_cpus and not environment.get(_THREADS):
        variables[_THREADS] = str(max(1, int(process.resources.num_cpus)))
    return variables
