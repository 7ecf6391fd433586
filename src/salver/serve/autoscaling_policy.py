"""The built-in autoscaling policies, for policies of users to build on.

A policy is a function, or a class with ``__call__``, that takes an ``AutoscalingContext`` and returns the number of
replicas that are needed, and a dict that it finds in ``policy_state`` the next time::

    def never_alone(ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        needed, state = default_autoscaling_policy(ctx)
        return max(needed, 2), state

Factors, delays and bounds of ``AutoscalingConfig`` are applied to its answer, whatever policy it is. A policy of an
application takes a dict of contexts, by deployment, and returns a dict of numbers and one of states.

The deployment's own configuration needs none of this: without ``policy``, the controller applies the same formula.
"""

from __future__ import annotations

from typing import Any

from salver.control.autoscaling import cold_start_replicas, replicas_needed
from salver.serve.policies.autoscaling_context import AutoscalingContext

__all__ = ["default_autoscaling_policy", "replica_queue_length_autoscaling_policy"]


def replica_queue_length_autoscaling_policy(ctx: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """As many replicas as bring each to ``target_ongoing_requests``, waiting and running ones together.

    Returns:
        The number, not rounded, and the state as it was. A deployment without replicas needs some when a request
        waits, and stays as it is when none does.
    """
    config = ctx.config
    if ctx.current_num_replicas == 0:
        waiting = ctx.total_num_requests > 0
        at_first = cold_start_replicas(config.get_upscaling_factor()) if waiting else 0
        return max(at_first, ctx.target_num_replicas), ctx.policy_state
    return replicas_needed(ctx.total_num_requests, config.get_target_ongoing_requests()), ctx.policy_state


default_autoscaling_policy = replica_queue_length_autoscaling_policy
