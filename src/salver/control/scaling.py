"""How many replicas of one deployment are wanted: what its user said, or autoscaling or somebody outside decided."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from salver.control.autoscaling import Autoscaler
from salver.control.events import Load
from salver.records import DeploymentSpec
from salver.views import ScalingDecision, ScalingView

_DECISIONS_KEPT = 20


class Change(Struct, frozen=True):
    """A number of replicas that was decided on; ``reason`` is for people."""

    before: int
    after: int
    reason: str


class Scaling:
    """The wanted number of replicas and where it comes from.

    Args:
        spec: the deployment.
        decided: a number that was decided on before the controller restarted; None for none.
        capacity_percent: how much of every number is wanted; None is all.
    """

    def __init__(self, spec: DeploymentSpec, decided: int | None, capacity_percent: float | None) -> None:
        self._spec = spec
        self._capacity_percent = capacity_percent
        self.decided = decided
        self._decisions: list[ScalingDecision] = []
        self._autoscaler = Autoscaler(spec.autoscaling) if spec.autoscaling is not None else None

    @property
    def automatic(self) -> bool:
        """Whether the load decides."""
        return self._autoscaler is not None

    @property
    def wanted(self) -> int:
        """How many replicas there should be."""
        return self.wanted_of(self._spec)

    def wanted_of(self, spec: DeploymentSpec) -> int:
        """How many of ``spec``, which may be what ran before; only what autoscaling decided is common to all."""
        if spec is not self._spec and spec.autoscaling is None:
            return self._share_of(spec.num_replicas)
        number = spec.num_replicas if self.decided is None else self.decided
        autoscaling = spec.autoscaling
        if autoscaling is None:
            return self._share_of(number)
        return min(max(number, self._share_of(autoscaling.min_replicas)), self._share_of(autoscaling.max_replicas))

    def _share_of(self, number: int) -> int:
        """Of a number, what the capacity allows: rounded half up, and one at least unless nothing is wanted."""
        percent = self._capacity_percent
        if percent is None or number == 0:
            return number
        return max(1, int(number * percent / 100 + 0.5)) if percent > 0 else 0

    def aim(self, spec: DeploymentSpec) -> Change | None:
        """A deploy. What autoscaling decided stays, and what somebody outside decided does not."""
        before, reason = self.wanted, self._reason_of_deploy(spec)
        self._spec = spec
        if spec.autoscaling is None:
            self._autoscaler = None
            self.decided = None
        elif self._autoscaler is None:
            self._autoscaler = Autoscaler(spec.autoscaling)
            self.decided = None
        else:
            self._autoscaler.aim(spec.autoscaling)
        return self._change(before, reason)

    def _reason_of_deploy(self, spec: DeploymentSpec) -> str:
        if spec.autoscaling is not None:
            return f"deployed with {spec.autoscaling.min_replicas} to {spec.autoscaling.max_replicas} replicas"
        reason = f"deployed with num_replicas={spec.num_replicas}"
        if self.decided is None:
            return reason
        who = "autoscaling had decided on" if self.automatic else "the control API had asked for"
        return f"{reason}; {who} {self.decided}"

    def set_capacity(self, percent: float | None) -> Change | None:
        """How much of every number is wanted; None is all."""
        before, reason = self.wanted, f"target_capacity went from {_in_words(self._capacity_percent)}"
        self._capacity_percent = percent
        return self._change(before, f"{reason} to {_in_words(percent)}")

    def set_from_outside(self, number: int, at_s: float) -> Change | None:
        """Somebody has decided; None when that changes nothing."""
        return self._decide(number, "asked for by the control API", at_s)

    def observe(self, load: Load, now: float) -> None:
        """How busy the deployment is."""
        if self._autoscaler is not None:
            self._autoscaler.observe(load, now)

    def advise(self, replicas: int | None, error: str) -> None:
        """What the user's own policy says; None when it could not decide, and ``error`` why."""
        if self._autoscaler is not None:
            self._autoscaler.advise(self.wanted if replicas is None else replicas, error)

    def decide(self, now: float, at_s: float) -> Change | None:
        """What autoscaling decides now; None when it is content. ``at_s`` is the wall time."""
        autoscaling = self._spec.autoscaling
        if self._autoscaler is None or autoscaling is None:
            return None
        low, high = self._share_of(autoscaling.min_replicas), self._share_of(autoscaling.max_replicas)
        decision = self._autoscaler.decide(self.wanted, low, high, now)
        return None if decision is None else self._decide(decision.replicas, decision.reason, at_s)

    def _decide(self, number: int, reason: str, at_s: float) -> Change | None:
        before = self.wanted
        self.decided = number
        if self.wanted == before:
            return None
        self._decisions = [*self._decisions, ScalingDecision(at_s, reason, before, self.wanted)][-_DECISIONS_KEPT:]
        return self._change(before, reason)

    def _change(self, before: int, reason: str) -> Change | None:
        return None if self.wanted == before else Change(before, self.wanted, reason)

    def next_deadline(self) -> float | None:
        """When a delay that is under way ends."""
        return None if self._autoscaler is None else self._autoscaler.next_deadline()

    def view(self) -> ScalingView | None:
        """For status; None without autoscaling."""
        if self._autoscaler is None:
            return None
        return msgspec.structs.replace(self._autoscaler.view(self.wanted), decisions=tuple(self._decisions))


def _in_words(percent: float | None) -> str:
    return "100 %" if percent is None else f"{percent:g} %"
