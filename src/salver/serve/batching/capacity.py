"""Whether a replica takes enough requests at a time for its batches to fill.

A call that waits for its batch is a request that runs: with the default of 5 ``max_ongoing_requests``, a batch of 64
would never hold more than 5 and always wait for its timeout. And while batches are executed the next one should fill
already, or the model waits between any two for as long as it takes callers to hear that there are free slots.
"""

from __future__ import annotations

import logging
from typing import Any

from salver.records import DeploymentId
from salver.serve.batching.code import BatchedCode, batched_functions
from salver.serve.deployment import Deployment
from salver.serve.options import DeploymentOptions

logger = logging.getLogger("salver.serve")


def options_with_room_for_batches(deployment: Deployment[Any], name: DeploymentId) -> DeploymentOptions:
    """The deployment's options, with ``max_ongoing_requests`` chosen by its batches where the user did not set it.

    The choice is what fills all batches of all batched functions and one more of each, and at least the default. A
    value of the user's that cannot fill them is kept, with a warning. Where ``batch_size_fn`` weighs batches nobody
    can tell how many calls fill one: then an unset value stays what it is, with a warning.
    """
    options = deployment.all_options
    codes = batched_functions(deployment.func_or_class)
    if "max_ongoing_requests" in options.model_fields_set:
        for code in codes:
            _warn_if_never_full(code, options.max_ongoing_requests, name)
        return options
    counted = [code for code in codes if code.batch_size_fn is None]
    wanted = max(options.max_ongoing_requests, sum(map(_calls_that_keep_busy, counted)))
    for code in codes:
        if code not in counted:
            _warn_of_weights(code, wanted, name)
    if wanted == options.max_ongoing_requests:
        return options
    return options.changed({"max_ongoing_requests": wanted})


def _calls_that_fill(code: BatchedCode) -> int:
    return code.limits.max_batch_size * code.limits.max_concurrent_batches


def _calls_that_keep_busy(code: BatchedCode) -> int:
    """Batches that are executed, and the one that fills meanwhile."""
    return _calls_that_fill(code) + code.limits.max_batch_size


def _warn_if_never_full(code: BatchedCode, max_ongoing_requests: int, name: DeploymentId) -> None:
    if code.batch_size_fn is not None or max_ongoing_requests >= _calls_that_fill(code):
        return
    size, concurrent = code.limits.max_batch_size, code.limits.max_concurrent_batches
    logger.warning(
        "Deployment %s: max_ongoing_requests=%d is too low for the batches of %s (max_batch_size=%d, "
        "max_concurrent_batches=%d): a replica never has more than %d calls for them, unless one request makes "
        "several. Set max_ongoing_requests to at least %d, or leave it out: then Salver chooses it so.",
        name,
        max_ongoing_requests,
        code.name,
        size,
        concurrent,
        max_ongoing_requests,
        _calls_that_fill(code),
    )


def _warn_of_weights(code: BatchedCode, max_ongoing_requests: int, name: DeploymentId) -> None:
    logger.warning(
        "Deployment %s: %s weighs its batches with batch_size_fn, so how many calls fill one is not known. Set "
        "max_ongoing_requests (now %d) to at least as many as its batches should hold.",
        name,
        code.name,
        max_ongoing_requests,
    )
