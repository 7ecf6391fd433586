"""What is known of each batch that was executed: kept for a while, and counted under the reference's names."""

from __future__ import annotations

from msgspec import Struct

from salver.data.context import ReplicaIdentity
from salver.serve.batching.plan import Reason
from salver.telemetry.metrics import LATENCY_BOUNDARIES_MS, registry

_LABELS = ("function_name", "deployment", "replica", "application")
_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
_PERCENT = (5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 99.0, 100.0)

_wait = registry.histogram(
    "serve_batch_wait_time_ms", "How long the first call of a batch waited.", LATENCY_BOUNDARIES_MS, _LABELS
)
_execution = registry.histogram(
    "serve_batch_execution_time_ms", "How long a batch was executed.", LATENCY_BOUNDARIES_MS, _LABELS
)
_utilization = registry.histogram(
    "serve_batch_utilization_percent", "How full a batch was, in percent of max_batch_size.", _PERCENT, _LABELS
)
_size = registry.histogram("serve_actual_batch_size", "Calls in a batch.", _SIZES, _LABELS)
_queue_length = registry.gauge("serve_batch_queue_length", "Calls that waited when a batch had ended.", _LABELS)
_processed = registry.counter("serve_batches_processed", "Batches, by why they closed.", (*_LABELS, "reason"))


class BatchRecord(Struct, frozen=True):
    """One batch that was executed.

    Attributes:
        function_name: of the batched function.
        size: how many calls it held.
        reason: why it closed.
        wait_s: how long its first call had waited then.
        execution_s: how long it was executed, repetitions for ``isolate_errors`` included.
        utilization: its weight (without ``batch_size_fn`` its size), as a fraction of ``max_batch_size``.
        left_waiting: how many calls waited for the next batches when it ended.
    """

    function_name: str
    size: int
    reason: Reason
    wait_s: float
    execution_s: float
    utilization: float
    left_waiting: int


def count_batch(record: BatchRecord, identity: ReplicaIdentity | None) -> None:
    """Add it to the metrics of this replica; None: of a process that is none."""
    where = ("", "", "") if identity is None else (identity.deployment, identity.replica_id, identity.app_name)
    labels = (record.function_name, *where)
    _wait.series(labels).observe(record.wait_s * 1000)
    _execution.series(labels).observe(record.execution_s * 1000)
    _utilization.series(labels).observe(record.utilization * 100)
    _size.series(labels).observe(record.size)
    _queue_length.series(labels).set(record.left_waiting)
    _processed.series((*labels, str(record.reason))).inc()
