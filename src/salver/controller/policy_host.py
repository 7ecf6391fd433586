"""Users' autoscaling policies, asked on the core's behalf: when, with what, and what becomes of their answers.

Each application that has policies gets one process for them: two applications may have different modules of the same
name, and one that hangs takes no other along. A policy is asked when something has changed that it may want to know
of, four times a second at most, and every ten seconds in any case, for some go by the clock.

Whatever a policy does, the core is told and the number of replicas stays. It raises or returns nonsense: that is all.
It hangs or ends its process: a new process begins, without what the old one remembered, and later each time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from salver.control.events import Event, PolicyDecided
from salver.controller.policy_facts import decided_by_policies, facts_of, policies_of
from salver.controller.policy_messages import Answer, Ask, Facts, Failure, Policies
from salver.controller.policy_process import PolicyProcess, PolicyProcessFailed
from salver.controller.replica_client import ReplicaClient
from salver.controller.replica_stats import ReplicaStats
from salver.records import ApplicationSpec
from salver.views import ApplicationView

logger = logging.getLogger("salver.controller")

LOOK_EVERY_S = 0.25
ASK_EVERY_S = 10.0
_RESTART_FIRST_S = 1.0
_RESTART_MOST_S = 30.0


@dataclass(slots=True)
class _Employed:
    """An application whose policies are asked."""

    policies: Policies
    spec: ApplicationSpec
    stats: ReplicaStats
    failures: dict[str, Failure] = field(default_factory=dict[str, Failure])
    """As last reported."""


class PolicyHost:
    """The applications whose policies are asked.

    Args:
        views: the state of things, as status shows it.
        recording_stats: a deployment's replicas that have a ``record_autoscaling_stats``, by ``app#deployment``.
        client: the conversation with a replica, None when there is none now.
        tell: receives PolicyDecided.
    """

    def __init__(
        self,
        views: Callable[[], tuple[ApplicationView, ...]],
        recording_stats: Callable[[str], Iterable[str]],
        client: Callable[[str], ReplicaClient | None],
        tell: Callable[[Event], None],
    ) -> None:
        self._views = views
        self._recording_stats = recording_stats
        self._client = client
        self._tell = tell
        self._employed: dict[str, tuple[_Employed, asyncio.Task[None]]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def watch(self, specs: Iterable[ApplicationSpec]) -> None:
        """Ask the policies of these applications from now on, and no others.

        An application whose policies have changed, their code included, gets a new process.
        """
        wanted = {spec.name: (policies, spec) for spec in specs if (policies := policies_of(spec)) is not None}
        for name, (employed, _) in list(self._employed.items()):
            if name not in wanted or wanted[name][0] != employed.policies:
                self._let_go(name)
        for name, (policies, spec) in wanted.items():
            if name in self._employed:
                self._employed[name][0].spec = spec
            else:
                self._employ(policies, spec)

    async def stop(self) -> None:
        """End every process. May be called twice."""
        self.watch(())
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _employ(self, policies: Policies, spec: ApplicationSpec) -> None:
        employed = _Employed(policies, spec, ReplicaStats(self._client))
        self._employed[spec.name] = (employed, asyncio.get_running_loop().create_task(self._keep_asking(employed)))

    def _let_go(self, name: str) -> None:
        employed, task = self._employed.pop(name)
        employed.stats.stop()
        task.cancel()
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    # --- the process of one application -------------------------------------------------------------------

    async def _keep_asking(self, employed: _Employed) -> None:
        delay_s = _RESTART_FIRST_S
        while True:
            started = time.monotonic()
            process = PolicyProcess()
            try:
                await self._ask_again_and_again(employed, process)
            except PolicyProcessFailed as failure:
                self._report(employed, _everything_failed(employed, f"{failure}; a new process is started"))
            except Exception:  # ours: the application's policies must not stay unasked for it
                logger.exception("asking the autoscaling policies of %s failed unexpectedly", employed.spec.name)
            finally:
                await process.close()
            if time.monotonic() - started > _RESTART_MOST_S:
                delay_s = _RESTART_FIRST_S
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _RESTART_MOST_S)

    async def _ask_again_and_again(self, employed: _Employed, process: PolicyProcess) -> None:
        await process.start(employed.policies)
        last: tuple[Facts, ...] = ()
        asked_at = float("-inf")
        while True:
            facts = facts_of(employed.spec, self._views())
            employed.stats.watch(self._recording(facts))
            readings = employed.stats.take()
            if facts and (facts != last or readings or time.monotonic() - asked_at >= ASK_EVERY_S):
                last, asked_at = facts, time.monotonic()
                self._report(employed, await process.ask(Ask(facts, readings, time.time(), asked_at)))
            await asyncio.sleep(LOOK_EVERY_S)

    def _recording(self, facts: tuple[Facts, ...]) -> set[str]:
        running = {replica_id for each in facts for replica_id in each.running}
        return {replica_id for each in facts for replica_id in self._recording_stats(str(each.id))} & running

    def _report(self, employed: _Employed, answer: Answer) -> None:
        asked = decided_by_policies(employed.spec)
        failures = {key: failure for key, failure in answer.failures.items() if key in asked}
        for key, failure in failures.items():
            if employed.failures.get(key) != failure:
                logger.error("autoscaling policy of %s: %s", key, failure.traceback or failure.message)
            self._tell(PolicyDecided((key,), {}, failure.message))
        employed.failures = failures
        decided = tuple(key for key in asked if key not in failures)
        if decided:
            self._tell(
                PolicyDecided(decided, {key: answer.replicas[key] for key in decided if key in answer.replicas})
            )


def _everything_failed(employed: _Employed, message: str) -> Answer:
    return Answer(failures={key: Failure(message) for key in decided_by_policies(employed.spec)})
