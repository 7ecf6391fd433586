"""What one replica reserves, and what the user says that the machine has to be reserved.

A replica reserves only what its deployment states. In Ray one that says nothing takes a CPU, so that a cluster is not
overrun; on one machine that would refuse the tutorial on a laptop, whose two cores could hold no third replica that
sleeps.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from salver.engine.local.capacity import StatedCapacity, checked_custom
from salver.records import Resources
from salver.serve.options import DeploymentOptions
from salver.serve.validation import Allowed, CountFromZero, NotNegative, Options

ACCELERATOR_SHARE = 0.001
"""Of ``accelerator_type:X``, of which a machine with such GPUs has 1: it says where, not how much (as in Ray)."""


def resources_of(options: DeploymentOptions) -> Resources:
    """What each replica of a deployment with ``options`` reserves; 0 for everything that they do not state."""
    actor = options.ray_actor_options
    custom = {name: amount for name, amount in actor.resources.items() if amount}
    if actor.accelerator_type is not None:
        custom.setdefault(f"accelerator_type:{actor.accelerator_type}", ACCELERATOR_SHARE)
    return Resources(
        num_cpus=actor.num_cpus if "num_cpus" in actor.model_fields_set else 0.0,
        num_gpus=actor.num_gpus or 0.0,
        memory=actor.memory or 0.0,
        custom=custom,
    )


_Amount = Annotated[NotNegative | None, Allowed("a number of at least 0, or None")]


class MachineOptions(Options):
    """What a machine has, as ``serve.start`` is told; None is what it looks like.

    Attributes:
        num_cpus: CPUs.
        num_gpus: GPUs.
        memory: in bytes.
        resources: amounts of resources that the user has named.
    """

    num_cpus: _Amount = None
    num_gpus: Annotated[CountFromZero | None, Allowed("an integer of at least 0, or None")] = None
    memory: _Amount = None
    resources: Annotated[
        dict[str, NotNegative],
        Allowed("a dict of names to numbers of at least 0"),
        AfterValidator(checked_custom),
    ] = Field(default_factory=dict[str, float])

    def for_launcher(self) -> StatedCapacity:
        return StatedCapacity(self.num_cpus, self.num_gpus, self.memory, self.resources)
