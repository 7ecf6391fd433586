"""The life of one replica, as a table.

A replica is told things (signals): outcomes of what was asked of it, a deadline that passed, or a decision of
its deployment. ``TRANSITIONS`` says which state follows; entering a state fixes the one command that asks for
the next outcome and the deadline by which it must come. So every state but ``RUNNING`` ends by itself: a lost
command or a lost answer costs time, never a replica.

Answers travel through processes that crash and reconnect, so late and repeated ones are normal: ``IGNORED``
lists those. What is in neither table contradicts what the replica has done so far, which is a bug of ours:
``InvalidTransition`` tells the replica's story.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from msgspec.structs import replace

from salver.control.events import (
    Command,
    DrainReplica,
    InitializeReplica,
    KillReplica,
    ReconfigureReplica,
    StartReplica,
)
from salver.control.leaving import Leaving
from salver.records import ApplicationSpec, DeploymentId, DeploymentSpec, GpuShares, Resources

SILENT_AFTER_S = 2.0
"""How long a replica gives no sign of life before anybody says so."""

START_TIMEOUT_S = 10.0
"""How long the engine may take to start a process; a fork takes milliseconds, so this is a hung machine."""

DRAIN_MARGIN_S = 1.0
"""Added to the graceful shutdown time: the replica ends itself by then, and is killed only if it does not."""

KILL_TIMEOUT_S = 5.0
"""After this long without an exit the kill is taken for lost and sent again."""

HISTORY_LENGTH = 16
"""Lines of a replica's story that are kept: a life without repeated answers has six."""


class State(Enum):
    """Where a replica is in its life; all but those in ``LASTING`` have a deadline."""

    STARTING = "STARTING"
    INITIALIZING = "INITIALIZING"
    RECOVERING = "RECOVERING"
    RUNNING = "RUNNING"
    UPDATING = "UPDATING"
    BLOCKED = "BLOCKED"
    HUNG = "HUNG"
    DRAINING = "DRAINING"
    KILLING = "KILLING"
    GONE = "GONE"


class Signal(Enum):
    """What a replica can be told; the last three are decisions, the others are facts."""

    PROCESS_STARTED = "process started"
    START_FAILED = "start failed"
    INITIALIZED = "initialized"
    INITIALIZE_FAILED = "initialize failed"
    RECONFIGURED = "reconfigured"
    BLOCKED = "event loop blocked"
    HUNG = "silent"
    RESPONSIVE = "answers again"
    UNHEALTHY = "health check failed"
    EXITED = "process exited"
    DEADLINE = "deadline passed"
    RECONFIGURE = "reconfigure"
    DRAIN = "drain"
    KILL = "kill"


SERVING = frozenset({State.RUNNING, State.RECOVERING, State.UPDATING, State.BLOCKED})
"""May take requests. So may a recovering one: before the controller restarted, or it fell silent, it probably ran."""

CONSTRUCTED = frozenset({State.RUNNING, State.UPDATING, State.BLOCKED})
"""Known to have its user's object."""

LASTING = frozenset({State.RUNNING, State.BLOCKED})
"""Without a deadline. A blocked replica computes where it should not; for how long is its author's affair."""

STOPPING = frozenset({State.DRAINING, State.KILLING})
"""On the way out: no longer counted as a replica of its deployment."""

TRANSITIONS: dict[tuple[State, Signal], State] = {
    (State.STARTING, Signal.PROCESS_STARTED): State.INITIALIZING,
    (State.STARTING, Signal.START_FAILED): State.GONE,
    (State.STARTING, Signal.EXITED): State.GONE,
    # The process may yet appear, so the slot is kept until the kill is answered.
    (State.STARTING, Signal.DEADLINE): State.KILLING,
    (State.STARTING, Signal.KILL): State.KILLING,
    (State.INITIALIZING, Signal.INITIALIZED): State.RUNNING,
    (State.INITIALIZING, Signal.INITIALIZE_FAILED): State.KILLING,
    (State.INITIALIZING, Signal.EXITED): State.GONE,
    (State.INITIALIZING, Signal.DEADLINE): State.KILLING,
    (State.INITIALIZING, Signal.KILL): State.KILLING,
    (State.RECOVERING, Signal.INITIALIZED): State.RUNNING,
    (State.RECOVERING, Signal.INITIALIZE_FAILED): State.KILLING,
    (State.RECOVERING, Signal.EXITED): State.GONE,
    (State.RECOVERING, Signal.DEADLINE): State.KILLING,
    # Not killed: it may be serving, and then its requests must finish.
    (State.RECOVERING, Signal.DRAIN): State.DRAINING,
    (State.RECOVERING, Signal.HUNG): State.HUNG,
    (State.RECOVERING, Signal.UNHEALTHY): State.DRAINING,
    (State.RUNNING, Signal.EXITED): State.GONE,
    (State.RUNNING, Signal.DRAIN): State.DRAINING,
    (State.RUNNING, Signal.RECONFIGURE): State.UPDATING,
    (State.RUNNING, Signal.BLOCKED): State.BLOCKED,
    (State.RUNNING, Signal.HUNG): State.HUNG,
    (State.RUNNING, Signal.UNHEALTHY): State.DRAINING,
    (State.UPDATING, Signal.RECONFIGURED): State.RUNNING,
    (State.UPDATING, Signal.EXITED): State.GONE,
    (State.UPDATING, Signal.DRAIN): State.DRAINING,
    (State.UPDATING, Signal.UNHEALTHY): State.DRAINING,
    (State.UPDATING, Signal.DEADLINE): State.DRAINING,
    (State.BLOCKED, Signal.RESPONSIVE): State.RUNNING,
    (State.BLOCKED, Signal.HUNG): State.HUNG,
    (State.BLOCKED, Signal.EXITED): State.GONE,
    (State.BLOCKED, Signal.DRAIN): State.DRAINING,
    (State.BLOCKED, Signal.UNHEALTHY): State.DRAINING,
    # It may have been silent before it was constructed, or have lost what it was told: it is asked what it is.
    (State.HUNG, Signal.RESPONSIVE): State.RECOVERING,
    (State.HUNG, Signal.BLOCKED): State.BLOCKED,
    (State.HUNG, Signal.EXITED): State.GONE,
    (State.HUNG, Signal.DRAIN): State.DRAINING,
    (State.HUNG, Signal.DEADLINE): State.KILLING,
    (State.DRAINING, Signal.EXITED): State.GONE,
    (State.DRAINING, Signal.DEADLINE): State.KILLING,
    (State.KILLING, Signal.EXITED): State.GONE,
    (State.KILLING, Signal.START_FAILED): State.GONE,
    # The kill may have come before the process did.
    (State.KILLING, Signal.PROCESS_STARTED): State.KILLING,
    (State.KILLING, Signal.DEADLINE): State.KILLING,
}

_ANSWERS = (Signal.PROCESS_STARTED, Signal.INITIALIZED, Signal.INITIALIZE_FAILED, Signal.RECONFIGURED)
_OBSERVATIONS = (Signal.BLOCKED, Signal.HUNG, Signal.RESPONSIVE, Signal.UNHEALTHY)

IGNORED: frozenset[tuple[State, Signal]] = frozenset(
    (state, signal)
    for state, signals in {
        # Constructors block, and import what holds Python's lock for seconds: their deadline is the start-up's.
        State.STARTING: _OBSERVATIONS,
        State.INITIALIZING: (Signal.PROCESS_STARTED, *_OBSERVATIONS),
        State.RECOVERING: (Signal.PROCESS_STARTED, Signal.RECONFIGURED, Signal.BLOCKED, Signal.RESPONSIVE),
        State.RUNNING: (*_ANSWERS, Signal.RESPONSIVE),
        # The same for ``reconfigure``.
        State.UPDATING: (*_ANSWERS[:3], Signal.BLOCKED, Signal.HUNG, Signal.RESPONSIVE),
        State.BLOCKED: (*_ANSWERS, Signal.BLOCKED),
        State.HUNG: (*_ANSWERS, Signal.HUNG, Signal.UNHEALTHY),
        State.DRAINING: (*_ANSWERS, *_OBSERVATIONS),
        State.KILLING: (*_ANSWERS[1:], *_OBSERVATIONS),
    }.items()
    for signal in signals
)


Settings = tuple[object, ...]


def settings_of(deployment: DeploymentSpec, rank: int) -> Settings:
    """What a running replica can be told anew: of two equal ones nothing need be told."""
    return (
        rank,
        deployment.user_config,
        deployment.max_ongoing_requests,
        deployment.graceful_shutdown_timeout_s,
        deployment.cancel_grace_s,
        deployment.max_rss_bytes,
        deployment.max_requests,
        deployment.logging,
    )


def without_code(deployment: DeploymentSpec) -> DeploymentSpec:
    """For a replica that has its code."""
    return replace(deployment, definition=b"")


class InvalidTransition(AssertionError):
    """A signal that contradicts the replica's state: a bug of ours. The message is the replica's story."""


class Replica:
    """One replica: its state, its deadline, its story. Knows nothing of its siblings.

    Args:
        replica_id: ``app#deployment#suffix``.
        slot: its place on the load board.
        application: what it belongs to, for its code context.
        deployment: what it runs.
        resources, gpus: what it has reserved, and got for that.
        now: when it came to the controller's knowledge, monotonic seconds.
    """

    def __init__(
        self,
        replica_id: str,
        slot: int,
        application: ApplicationSpec,
        deployment: DeploymentSpec,
        resources: Resources,
        gpus: GpuShares,
        now: float,
    ) -> None:
        self.replica_id = replica_id
        self.slot = slot
        self.application = application
        self.deployment = deployment
        self.resources = resources
        self.gpus = gpus
        self.created_at = now
        """When its process was asked for, also of one that was found."""
        self.rank = -1
        """Its number among the deployment's replicas; -1 when it has none, or it is not known."""
        self.told: Settings | None = None
        """What it was told last to be like; None when that is not known."""
        self.tellings = 0
        """How often it was told."""
        self.initializing = "constructor"
        """The step before its first request that failed, in words."""
        self.health_failures = 0
        """Of the user's ``check_health``, in a row."""
        self.worn = ""
        """Why it is to be replaced although it works; empty when it is not."""
        self.trouble = ""
        """Why it is silent or failed a health check, for people; empty when all is well."""
        self.pid: int | None = None
        self.address = ""
        self.leaving: Leaving | None = None
        """Why it is on its way out, or gone."""
        self.exit = ""
        """How its process has ended, for people; empty while it has not, and when there was none."""
        self.exit_code: int | None = None
        self.ran_since: float | None = None
        """When it began to take requests; one that was found probably did from its start on."""
        self.state = State.GONE
        self.since = now
        self.deadline: float | None = None
        self._history: deque[str] = deque(maxlen=HISTORY_LENGTH)

    @property
    def deployment_id(self) -> DeploymentId:
        return self.deployment.id

    @property
    def version(self) -> str:
        return self.deployment.version

    @property
    def serving(self) -> bool:
        return self.state in SERVING

    @property
    def stopping(self) -> bool:
        return self.state in STOPPING

    @property
    def troubled(self) -> bool:
        """It may serve, and others should be preferred."""
        return self.state is State.BLOCKED or self.health_failures > 0

    def ran_s(self, now: float) -> float:
        """For how long it has taken requests; 0 when it never did."""
        return 0.0 if self.ran_since is None else now - self.ran_since

    def begin(self, state: State, now: float, why: str) -> list[Command]:
        """Enter the first state: STARTING, or for a process that was found RECOVERING or KILLING."""
        return self._enter(state, now, why)

    def locate(self, pid: int, address: str) -> None:
        """Where its process is."""
        self.pid = pid
        self.address = address

    def take(self, signal: Signal, now: float, detail: str = "") -> list[Command]:
        """Follow the table; raises InvalidTransition for a signal that the state does not know."""
        why = f"{signal.value}: {detail}" if detail else signal.value
        if (self.state, signal) in IGNORED:
            self._record(now, f"{why} (late, ignored)")
            return []
        following = TRANSITIONS.get((self.state, signal))
        if following is None:
            self._record(now, f"{why}, which cannot happen in {self.state.value}")
            raise InvalidTransition(self.story())
        return self._enter(following, now, why)

    def stop(self, now: float, why: Leaving) -> list[Command]:
        """Drain it when requests may run in it, else kill it."""
        has_requests = self.state not in (State.STARTING, State.INITIALIZING)
        commands = self.take(Signal.DRAIN if has_requests else Signal.KILL, now, why.reason)
        self.leave(why)
        return commands

    def leave(self, why: Leaving) -> None:
        """Note why it leaves: the first reason stays, and one that did not make it leave is none."""
        if self.leaving is None and (self.stopping or self.state is State.GONE):
            self.leaving = why

    def exited(self, cause: str, exit_code: int | None) -> None:
        """Its process is gone."""
        self.exit = cause
        self.exit_code = exit_code

    def story(self) -> str:
        """What happened to it, for people: one line each, the last ``HISTORY_LENGTH`` of them."""
        lines = "\n  ".join(self._history)
        return f"replica {self.replica_id} (slot {self.slot}, version {self.version}):\n  {lines}"

    def _enter(self, state: State, now: float, why: str) -> list[Command]:
        self._record(now, f"{self.state.value} -> {state.value}: {why}")
        self.state = state
        self.since = now
        if state is State.RUNNING:
            self.trouble = ""
            self.ran_since = now if self.ran_since is None else self.ran_since
        elif state is State.RECOVERING:
            self.told = None
        elif state in (State.INITIALIZING, State.UPDATING):
            self.tellings += 1
            self.told = settings_of(self.deployment, self.rank)
        timeout_s = self._timeout_s()
        self.deadline = None if timeout_s is None else now + timeout_s
        return self._request()

    def _timeout_s(self) -> float | None:
        match self.state:
            case State.STARTING:
                return START_TIMEOUT_S
            # A recovering replica may have begun to construct just before the controller restarted.
            case State.INITIALIZING | State.RECOVERING | State.UPDATING:
                return self.deployment.startup_timeout_s
            case State.HUNG:
                return max(self.deployment.hang_timeout_s - SILENT_AFTER_S, 0.0)
            case State.DRAINING:
                return self.deployment.graceful_shutdown_timeout_s + DRAIN_MARGIN_S
            case State.KILLING:
                return KILL_TIMEOUT_S
            case State.RUNNING | State.BLOCKED | State.GONE:
                return None

    def _request(self) -> list[Command]:
        match self.state:
            case State.STARTING:
                return [StartReplica(self.replica_id, self.slot, self.deployment, self.gpus)]
            case State.INITIALIZING | State.RECOVERING:
                deployment, rank = self.deployment, self.rank
                return [InitializeReplica(self.replica_id, self.address, self.application, deployment, rank)]
            case State.UPDATING:
                deployment, number = without_code(self.deployment), self.tellings
                return [ReconfigureReplica(self.replica_id, self.address, number, deployment, self.rank)]
            case State.DRAINING:
                return [DrainReplica(self.replica_id, self.address)]
            case State.KILLING:
                return [KillReplica(self.replica_id)]
            case State.RUNNING | State.BLOCKED | State.HUNG | State.GONE:
                return []

    def _record(self, now: float, text: str) -> None:
        self._history.append(f"{now:.3f} {text}")
