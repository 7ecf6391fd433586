"""What a config file has declared: accepted, built, deployed, and remembered until it is.

A declaration is the full desired state of what files deploy: applications that a file has deployed before and that
are not in the new one are deleted; what code has deployed stays. The controller never sees user code: a job, a
process of its own, checks the config and builds the applications, each of which is deployed as soon as it is ready.
Every application is built every time. That is cheap, and versions are content hashes, so that the core sees for
itself what has not changed.

The accepted config is saved, with what has come of it, before anything is done about it. A controller that was killed
in the middle therefore builds again what had not been deployed. A new declaration first has its config checked while
the one before goes on; only when it is accepted, the older job ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from salver.controller.api_records import Declaration, DeclaredAnswer
from salver.controller.build_messages import BuildMessage, BuildRequest, Built, Failed, Progress
from salver.controller.build_process import BUILD_WITHIN_S, Build, BuildProcess, code_of_this_process
from salver.controller.checks import Checks
from salver.controller.declared_state import BuildState, DeclaredFile, DeclaredState
from salver.controller.failpoints import Failpoint, reach
from salver.controller.refusals import PrefixTaken
from salver.errors import ServeException
from salver.records import ApplicationSpec, CodeContext, JsonDict
from salver.views import Happening

logger = logging.getLogger("salver.controller")


class Declarations:
    """The declaration of one instance.

    Attributes:
        checks: of configs that are perhaps to be declared.

    Args:
        folder: where it is kept.
        deploy: takes an application that is built, and answers with its ``last_deployed_time_s``; what it refuses is
            a ServeException.
        delete: takes the name of one that is no longer wanted.
        declared: the applications that are wanted because of a config, with their route prefixes.
        of_code: those that are wanted for other reasons.
        set_capacity: takes the config's ``target_capacity``.
        tell: hears what an operator wants to know of later.
        still_to_come: hears the prefixes of the applications that are not deployed yet, whenever they may be others.
        code: where import paths are looked for unless a declaration says otherwise; default as in this process.
    """

    def __init__(
        self,
        folder: Path,
        *,
        deploy: Callable[[ApplicationSpec], float],
        delete: Callable[[str], None],
        declared: Callable[[], Mapping[str, str | None]],
        of_code: Callable[[], Mapping[str, str | None]],
        set_capacity: Callable[[float | None], None],
        tell: Callable[[Happening], None],
        still_to_come: Callable[[tuple[str, ...]], None],
        code: CodeContext | None = None,
    ) -> None:
        self._file = DeclaredFile(folder)
        self._deploy_now = deploy
        self._delete = delete
        self._declared = declared
        self._set_capacity = set_capacity
        self._tell = tell
        self._still_to_come = still_to_come
        self._code = code or code_of_this_process()
        self.checks = Checks(self._code, of_code)
        self._state: DeclaredState | None = None
        self._waiting: list[ApplicationSpec] = []
        self._checking = asyncio.Lock()
        self._building: asyncio.Task[None] | None = None
        self._jobs: set[Build] = set()

    def start(self) -> None:
        """Read what was declared, and go on with it if a controller ended in the middle."""
        try:
            self._state = self._file.load()
        except (OSError, ValueError) as error:
            kept = self._file.put_aside()
            self._report(
                f"what was declared cannot be read ({error}); the file is now {kept}. Deploy the config again."
            )
            return
        if self._state is not None and not self._state.settled:
            request = BuildRequest(self._state.config, self._state.code, tuple(self._unfinished()))
            self._carry_out(BuildProcess(request), begun=False)
        elif self._state is not None:
            self._tell_what_is_to_come()

    async def stop(self) -> None:
        """Let go; what is not finished is so for the next controller. May be called twice."""
        building, self._building = self._building, None
        if building is not None:
            building.cancel()
            await asyncio.wait({building})
        await self._end_jobs()
        await self.checks.stop()

    async def declare(self, config: JsonDict, check: str | None = None) -> DeclaredAnswer:
        """Make ``config`` what is wanted; returns as soon as it is accepted, before anything is built.

        Args:
            check: the one that has built it already. Where there is none of that name, it is built now.

        Raises:
            ConfigRefused: it is wrong.
            Overtaken: something was declared that began after that check.
            ServeException: it could not be checked or saved. In all cases nothing was changed.
        """
        async with self._checking:
            ticket = self.checks.take(check, config)
            job = ticket.build or BuildProcess(BuildRequest(config, self._code))
            try:
                accepted = await job.begin()
                state = DeclaredState(
                    config,
                    self._code,
                    accepted.names,
                    accepted.target_capacity,
                    {name: BuildState("DEPLOYING", "waits to be built") for name in accepted.names},
                    accepted_at_s=time.time(),
                )
                self._file.save(state)
            except BaseException as error:
                await job.stop()
                if isinstance(error, OSError):
                    raise ServeException(f"the config cannot be saved: {error}") from error
                raise
            reach(Failpoint.DECLARED)
            # From here on nothing waits: whoever asked may be gone, and half a declaration must not be left.
            self._state = state
            self.checks.declared(ticket.number, state.accepted_at_s)
            self._carry_out(job, begun=True)
            self._report(f"config accepted: {', '.join(accepted.names) or 'no applications'}")
            return DeclaredAnswer(accepted.warnings, state.accepted_at_s)

    async def delete_declared(self) -> None:
        """Delete everything that was declared, and forget the config."""
        async with self._checking:
            await self.stop()
            self._state = None
            for name in list(self._declared()):
                self._delete(name)
            self._file.save(None)

    def config(self) -> JsonDict | None:
        """What was declared last; None for nothing."""
        return None if self._state is None else self._state.config

    def builds(self) -> dict[str, BuildState]:
        """Applications of the config that are not deployed, or not as it says."""
        return {} if self._state is None else dict(self._state.builds)

    def declaration(self) -> Declaration | None:
        """When the config was accepted, and what was deployed because of it; None when nothing was declared."""
        state = self._state
        return None if state is None else Declaration(state.accepted_at_s, state.deployed_at_s)

    def forget(self, name: str) -> None:
        """Somebody deletes this application: it is not deployed when its build comes to an end."""
        if name in self.builds():
            self._waiting = [spec for spec in self._waiting if spec.name != name]
            self._remember(name, None)
            self._note()

    # --- carrying it out --------------------------------------------------------------------------------

    def _carry_out(self, job: Build, *, begun: bool) -> None:
        """Begin to do what the state says; the job goes on already, or is to be started."""
        state = self._state
        assert state is not None
        previous, self._waiting = self._building, []
        if previous is not None:
            previous.cancel()
        self._set_capacity(state.target_capacity)
        self._tell_what_is_to_come()
        for name in sorted(set(self._declared()) - set(state.names)):
            self._delete(name)
        self._jobs.add(job)
        self._building = asyncio.create_task(self._build(job, previous, begun=begun))

    async def _build(self, job: Build, previous: asyncio.Task[None] | None, *, begun: bool) -> None:
        failure = "the process that builds has ended unexpectedly; its output is in the controller's log"
        try:
            if previous is not None:
                await asyncio.wait({previous})
            await self._end_jobs(but=job)
            async with asyncio.timeout(BUILD_WITHIN_S):
                if not begun:
                    await job.begin()
                while (message := await job.next_message()) is not None:
                    self._heed(message)
        except TimeoutError:
            failure = f"was not built within {BUILD_WITHIN_S:.0f} s"
        except (OSError, ValueError, ServeException) as error:
            failure = f"the process that builds has failed: {error}"
        finally:
            self._jobs.discard(job)
            await job.stop()
        self._exchange_prefixes()
        for name in self._unfinished():
            self._failed(name, failure)
        self._note(settled=True)

    async def _end_jobs(self, but: Build | None = None) -> None:
        """Those whose task was cancelled before it began; the others have ended with their tasks."""
        jobs, self._jobs = self._jobs, {job for job in self._jobs if job is but}
        for job in jobs - self._jobs:
            await job.stop()

    def _heed(self, message: BuildMessage) -> None:
        match message:
            case Progress(app=app) | Failed(app=app) | Built(application=ApplicationSpec(name=app)) if (
                app not in self.builds()
            ):
                pass  # deleted while it was built
            case Progress(app=app, text=text):
                self._remember(app, BuildState("DEPLOYING", text))
            case Built(application=spec):
                if not self._is_deployed(spec):
                    self._waiting.append(spec)  # the prefix is perhaps one that another gives up, once it is built
            case Failed(app=app, message=text):
                self._failed(app, text)
            case _:
                raise ValueError(f"an unexpected {type(message).__name__}")

    def _is_deployed(self, spec: ApplicationSpec) -> bool:
        """Deploy it, unless another application has its prefix."""
        try:
            deployed_at_s = self._deploy_now(spec)
        except PrefixTaken as error:
            self._remember(spec.name, BuildState("DEPLOYING", str(error)))
            return False
        except ServeException as error:
            self._failed(spec.name, str(error))
        else:
            self._remember(spec.name, None, deployed_at_s)
            self._note()
        return True

    def _exchange_prefixes(self) -> None:
        """What waits for others' prefixes. Where they want each other's, all give up theirs first."""
        waiting, self._waiting = self._waiting, []
        while True:
            refused = [spec for spec in waiting if not self._is_deployed(spec)]
            if not refused or len(refused) == len(waiting):
                break
            waiting = refused
        for spec in _exchanging(refused, self._declared()):
            self._deploy_now(msgspec.structs.replace(spec, route_prefix=None))
        for spec in refused:
            if not self._is_deployed(spec):
                self._failed(spec.name, self.builds()[spec.name].message)

    def _failed(self, name: str, message: str) -> None:
        self._remember(name, BuildState("DEPLOY_FAILED", message))
        self._note()
        logger.error("application '%s' could not be built: %s", name, message)
        self._tell(Happening("deploy", f"could not be built: {message}", app=name))

    # --- what is remembered -----------------------------------------------------------------------------

    def _unfinished(self) -> list[str]:
        return [name for name, build in self.builds().items() if build.status == "DEPLOYING"]

    def _remember(self, name: str, build: BuildState | None, deployed_at_s: float | None = None) -> None:
        assert self._state is not None
        builds = {other: state for other, state in self._state.builds.items() if other != name}
        if build is not None:
            builds[name] = build
        deployed = self._state.deployed_at_s
        if deployed_at_s is not None:
            deployed = {**deployed, name: deployed_at_s}
        self._state = msgspec.structs.replace(self._state, builds=builds, deployed_at_s=deployed)
        self._tell_what_is_to_come()

    def _tell_what_is_to_come(self) -> None:
        assert self._state is not None
        prefixes = self._state.prefixes()
        found = {prefixes[name] for name in self._unfinished()}
        self._still_to_come(tuple(sorted(prefix for prefix in found if prefix is not None)))

    def _note(self, *, settled: bool = False) -> None:
        """Save the state. A full disk must not end what goes on: at worst something is built again later."""
        if self._state is not None and settled:
            self._state = msgspec.structs.replace(self._state, settled=True)
        try:
            self._file.save(self._state)
        except OSError as error:
            logger.warning("the state of the config cannot be saved: %s", error)

    def _report(self, message: str) -> None:
        logger.info("%s", message)
        self._tell(Happening("config", message))


def _exchanging(specs: list[ApplicationSpec], prefixes: Mapping[str, str | None]) -> list[ApplicationSpec]:
    """Those of ``specs`` of which each waits for the prefix that another of them has."""
    while True:
        held = {prefixes.get(spec.name) for spec in specs}
        kept = [spec for spec in specs if spec.route_prefix in held]
        if len(kept) == len(specs):
            return kept
        specs = kept
