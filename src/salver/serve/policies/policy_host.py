"""A process that runs the autoscaling policies of one application: ``python -m salver.serve.policies.policy_host``.

The controller starts it and asks through its standard input and output; it ends, with whatever the policies have
started, as soon as its input does. What policies print goes to standard error.
"""

from __future__ import annotations

import os
import signal
import threading
from queue import SimpleQueue
from typing import Any, BinaryIO

from setproctitle import setproctitle

from salver.controller.policy_messages import (
    EMPTY,
    LENGTH,
    Answer,
    Ask,
    Facts,
    Failure,
    Policies,
    decode_ask,
    decode_policies,
    encode,
)
from salver.records import DeploymentId
from salver.serve.building.autoscaling_spec import config_of
from salver.serve.context import ReplicaID
from salver.serve.policies.autoscaling_context import AutoscalingContext
from salver.serve.policies.hosted_policy import HostedPolicy
from salver.serve.policies.policy_readings import Readings


class PolicyDesk:
    """The policies of one application, and what they remember."""

    def __init__(self, policies: Policies) -> None:
        self._application = None if policies.application is None else HostedPolicy(policies.application)
        self._deployments = {key: HostedPolicy(policy) for key, policy in policies.deployments.items()}
        self._states: dict[DeploymentId, dict[str, Any]] = {}
        self._readings: dict[DeploymentId, Readings] = {}

    def load(self) -> None:
        """Import everything. What cannot be imported is tried again, and told, when it is asked."""
        for policy in [*self._deployments.values(), *([self._application] if self._application else [])]:
            policy.load()

    def answer(self, ask: Ask) -> Answer:
        """Ask the policies."""
        self._note_readings(ask)
        contexts = {facts.id: self._context(facts, ask) for facts in ask.deployments}
        return self._ask_application(contexts) if self._application is not None else self._ask_each(contexts)

    def _ask_application(self, contexts: dict[DeploymentId, AutoscalingContext]) -> Answer:
        assert self._application is not None
        decided = self._application.decide_for_all(contexts)
        if isinstance(decided, Failure):
            return Answer(failures={str(deployment): decided for deployment in contexts})
        numbers, states = decided
        self._states.update(states)
        return Answer({str(deployment): number for deployment, number in numbers.items()})

    def _ask_each(self, contexts: dict[DeploymentId, AutoscalingContext]) -> Answer:
        replicas: dict[str, int] = {}
        failures: dict[str, Failure] = {}
        for deployment, context in contexts.items():
            decided = self._deployments[str(deployment)].decide_for(context)
            if isinstance(decided, Failure):
                failures[str(deployment)] = decided
            else:
                replicas[str(deployment)], self._states[deployment] = decided
        return Answer(replicas, failures)

    def _note_readings(self, ask: Ask) -> None:
        owners = {replica_id: facts.id for facts in ask.deployments for replica_id in facts.running}
        for reading in ask.readings:
            owner = owners.get(reading.replica_id)
            if owner is not None:
                self._readings.setdefault(owner, Readings()).add(_replica_id(reading.replica_id, owner), reading)

    def _context(self, facts: Facts, ask: Ask) -> AutoscalingContext:
        running = [_replica_id(replica_id, facts.id) for replica_id in facts.running]
        readings = self._readings.setdefault(facts.id, Readings())
        readings.keep(running, ask.monotonic_s - facts.settings.look_back_period_s)
        return AutoscalingContext(
            deployment_id=facts.id,
            deployment_name=facts.id.name,
            app_name=facts.id.app,
            current_num_replicas=len(running),
            target_num_replicas=facts.target,
            running_replicas=running,
            total_num_requests=facts.requests,
            total_queued_requests=facts.queued,
            total_running_requests=facts.ongoing,
            aggregated_metrics=readings.aggregated(facts.settings.aggregation),
            raw_metrics=readings.raw(ask.now_s - ask.monotonic_s),
            capacity_adjusted_min_replicas=facts.low,
            capacity_adjusted_max_replicas=facts.high,
            policy_state=self._states.get(facts.id, {}),
            last_scale_up_time=facts.scaled_up_at_s,
            last_scale_down_time=facts.scaled_down_at_s,
            current_time=ask.now_s,
            config=config_of(facts.settings),
        )


def _replica_id(replica_id: str, deployment: DeploymentId) -> ReplicaID:
    return ReplicaID(replica_id.removeprefix(f"{deployment}#"), deployment)


def main() -> None:
    """Answer until the input ends."""
    questions, answers = _take_pipes()
    inbox: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read, args=(questions, inbox), daemon=True).start()
    policies = decode_policies(inbox.get())
    specs = [*policies.deployments.values(), *([policies.application] if policies.application else [])]
    setproctitle(f"salver: policies {' '.join(spec.name for spec in specs)}")
    desk = PolicyDesk(policies)
    desk.load()
    answers.write(EMPTY)
    answers.flush()
    while True:
        answers.write(encode(desk.answer(decode_ask(inbox.get()))))
        answers.flush()


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The controller's pipes, out of the way of what users' code reads and prints."""
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return questions, answers


def _read(questions: BinaryIO, inbox: SimpleQueue[bytes]) -> None:
    """Pass messages on; end the process when there will be no more, also while a policy hangs."""
    while len(head := questions.read(LENGTH.size)) == LENGTH.size:
        (length,) = LENGTH.unpack(head)
        inbox.put(questions.read(length))
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
