"""When the number of replicas follows the load, and why: the autoscaling of one deployment.

Three steps, the same for the built-in policy and for a user's own:

1. *How many replicas are needed?* The built-in policy divides the requests that wait and run, summed up over the
   look-back period, by ``target_ongoing_requests``. A user's policy says a number (``advise``).
2. *How big a step?* The way from the present number to that is multiplied by ``upscaling_factor`` or
   ``downscaling_factor``, then kept between the bounds. A step down stops at what is needed, so a factor above 1
   cannot make the number swing. The last replica goes in a step of its own, and only when no request is left.
3. *Since when?* A step is made when it has been wanted without a break for its delay.

From no replicas to some it goes without delay, as soon as a request waits: somebody is waiting for an answer.
"""

from __future__ import annotations

import math

from msgspec import Struct

from salver.control.events import Load
from salver.control.load_window import LoadWindow
from salver.records import AutoscalingSpec
from salver.views import ScalingView

_MOST_REPLICAS = 1e6  # so that any load over any target is a number that can be rounded
_ROUNDING = 1e-9  # 0.3 / 0.1 is not to need four replicas


class Decision(Struct, frozen=True):
    """A number of replicas to have from now on; ``reason`` is a sentence for people."""

    replicas: int
    reason: str


class _Step(Struct, frozen=True):
    """What has been wanted since when."""

    target: int
    up: bool
    since: float
    delay_s: float


class Autoscaler:
    """The autoscaling of one deployment. All times are monotonic seconds."""

    def __init__(self, spec: AutoscalingSpec) -> None:
        self._spec = spec
        self._window = LoadWindow(spec.look_back_period_s)
        self._load: Load | None = None
        self._requests = 0.0
        self._advice: int | None = None
        self._error = ""
        self._desired: int | None = None
        self._bounds = (spec.min_replicas, spec.max_replicas)
        self._step: _Step | None = None

    @property
    def _asks_user(self) -> bool:
        return self._spec.wants_stats or self._spec.policy is not None

    def aim(self, spec: AutoscalingSpec) -> None:
        """Other settings from now on; what is known of the load stays."""
        if spec.policy != self._spec.policy or spec.wants_stats != self._spec.wants_stats:
            self._advice, self._error = None, ""
        self._spec = spec
        self._window.period_s = spec.look_back_period_s

    def observe(self, load: Load, now: float) -> None:
        """How many requests there are now."""
        self._load = load
        self._window.add(load.queued + load.running, now)
        self._requests = self._window.aggregate(self._spec.aggregation)

    def advise(self, replicas: int, error: str = "") -> None:
        """What the user's policy says; with ``error``, why it says nothing: then the number stays as it is."""
        self._advice = None if error else replicas
        self._error = error

    def decide(self, target: int, low: int, high: int, now: float) -> Decision | None:
        """The number of replicas to have instead of ``target``, which is between ``low`` and ``high``.

        None when it is to stay, or when a delay has not ended yet: ``next_deadline`` says when to ask again.
        """
        self._bounds = (low, high)
        desired = self._desired = self._desired_replicas(target, low, high)
        if desired == target:
            self._step = None
            return None
        up = desired > target
        since = self._step.since if self._step and (self._step.target, self._step.up) == (target, up) else now
        delay_s = self._delay(target, up)
        self._step = _Step(target, up, since, delay_s)
        if now < since + delay_s:
            return None
        self._step = None
        return Decision(desired, self._reason(target, delay_s))

    def next_deadline(self) -> float | None:
        """When the delay of the step that is wanted ends."""
        return None if self._step is None else self._step.since + self._step.delay_s

    def view(self, target: int) -> ScalingView:
        """How this looks to people; the decisions are for who made them to add."""
        desired = target if self._desired is None else self._desired
        status = "UPSCALING" if desired > target else "DOWNSCALING" if desired < target else "STABLE"
        load = self._load or Load(0.0, 0.0)
        low, high = self._bounds
        return ScalingView(
            status, load.queued, load.running, desired, (), self._error, requests=self._requests, low=low, high=high
        )

    # --- how many -----------------------------------------------------------------------------------------

    def _desired_replicas(self, target: int, low: int, high: int) -> int:
        load = self._load
        if load is None:
            return target
        if target == 0 and load.queued > 0:
            return min(cold_start_replicas(self._spec.upscaling_factor), high)
        needed = self._needed(target)
        desired = replicas_after_step(target, needed, self._spec.upscaling_factor, self._spec.downscaling_factor)
        least = 1 if target > 1 or (target == 1 and load.queued + load.running > 0) else 0
        return min(max(desired, low, least), high)

    def _needed(self, target: int) -> float:
        if self._asks_user:
            return target if self._advice is None else self._advice
        return replicas_needed(self._requests, self._spec.target_ongoing_requests) if target else 0.0

    # --- when ---------------------------------------------------------------------------------------------

    def _delay(self, target: int, up: bool) -> float:
        spec = self._spec
        if up:
            return spec.upscale_delay_s if target else 0.0
        if target == 1 and spec.downscale_to_zero_delay_s is not None:
            return spec.downscale_to_zero_delay_s
        return spec.downscale_delay_s

    # --- why ----------------------------------------------------------------------------------------------

    def _reason(self, target: int, delay_s: float) -> str:
        waited = f": for {delay_s:g} s" if delay_s else ""
        if target == 0 and self._load is not None and self._load.queued > 0:
            return f"no replicas, and requests wait: {self._load.queued:g}"
        if self._asks_user:
            name = self._spec.policy.name if self._spec.policy is not None else "of the application"
            return f"policy {name} wants {self._advice}{waited}"
        if not self._requests:
            return f"no requests{waited}"
        replicas = "1 replica" if target == 1 else f"{target} replicas"
        return (
            f"{self._requests:.1f} requests on {replicas}, {self._requests / target:.1f} each, "
            f"target {self._spec.target_ongoing_requests:g}{waited}"
        )


def cold_start_replicas(upscaling_factor: float) -> int:
    """How many replicas the first request that waits for a deployment without any calls for."""
    return math.ceil(upscaling_factor)


def replicas_needed(requests: float, requests_per_replica: float) -> float:
    """How many replicas have ``requests_per_replica`` each when there are ``requests``; not rounded."""
    return min(requests / requests_per_replica, _MOST_REPLICAS)


def replicas_after_step(target: int, needed: float, upscaling_factor: float, downscaling_factor: float) -> int:
    """How many replicas to go to from ``target`` when ``needed`` would be right."""
    enough = _rounded_up(needed)
    if enough == target or target == 0:  # from none there is no way to multiply
        return enough
    if enough > target:
        return max(target + _rounded_up(min(upscaling_factor * (needed - target), _MOST_REPLICAS)), target + 1)
    return max(min(_rounded_up(target + downscaling_factor * (needed - target)), target - 1), enough)


def _rounded_up(number: float) -> int:
    return math.ceil(number - _ROUNDING)
