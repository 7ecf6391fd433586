"""Which requests of a dead replica may be sent again.

What a dead replica had been sent may have run. Only a deployment that says ``idempotent`` allows it to run twice, and
even there sending again must not make things worse: a request that kills its replica would go on killing, and a
deployment whose every replica fails would get several times its load. So a request is sent three times at most, and
at any moment only a share of a caller's requests is on a second or third try (Envoy's retry budget). The share never
cuts the death of a single replica: as many as one replica runs are always allowed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from salver.data.routing.replica_link import Exchange

MOST_ATTEMPTS = 3
_PERCENT_OF_IN_FLIGHT = 20
_ALWAYS = 3


def send_again(
    lost: Sequence[Exchange], running: Iterable[Exchange], queued: Collection[Exchange], *, replica_slots: int
) -> list[Exchange]:
    """Those of ``lost`` that may be sent again, in their order.

    Args:
        lost: what the dead replica had been sent.
        running: this caller's requests on other replicas.
        queued: its requests that wait; one that has an attempt behind it waits for its next.
        replica_slots: how many requests one replica runs at a time.
    """
    in_flight = len(lost) + len(queued)
    retrying = sum(exchange.attempts > 0 for exchange in queued)
    for exchange in running:
        in_flight += 1
        retrying += exchange.attempts > 1
    budget = max(_ALWAYS, replica_slots, in_flight * _PERCENT_OF_IN_FLIGHT // 100) - retrying
    allowed = [exchange for exchange in lost if exchange.retryable and exchange.attempts < MOST_ATTEMPTS]
    return allowed[: max(0, budget)]
