"""Checks of configs before they are deployed: built as an accepted one is, with nothing of it done.

Whoever checks begins one, and asks again and again until it is finished. A check that nobody asks for any more ends,
and what it has built is let go. What was built without a mistake may be declared within that time, so that it is
deployed as it was checked, and nothing is built a second time.

Of several deploys the last is to win, however long each takes to be checked. Checks and declarations are therefore
numbered as they begin; a check is overtaken once something has been declared that began after it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

from msgspec import Struct

from salver.controller.api_records import CheckAnswer
from salver.controller.build_messages import Accepted, BuildMessage, BuildRequest, Built, Failed, Mistake, Progress
from salver.controller.build_process import BUILD_WITHIN_S, BuildProcess
from salver.controller.refusals import ConfigRefused, NoSuchCheck, Overtaken, TooManyChecks
from salver.errors import ServeException
from salver.records import CodeContext, JsonDict

AT_A_TIME = 4
KEPT_S = 15.0
"""For how long a check goes on, and its result is kept, that nobody asks for."""


class Findings:
    """What building a config has shown so far.

    Attributes:
        accepted: once its form has been found to be right.
        progress: what takes long, by application.
        built: the applications that could be built.
        mistakes: why others could not, or the config is wrong.
    """

    def __init__(self) -> None:
        self.accepted: Accepted | None = None
        self.progress: dict[str, str] = {}
        self.built: list[Built] = []
        self.mistakes: list[Mistake] = []

    async def gather(self, request: BuildRequest) -> None:
        """Build all of it, in processes of its own, which end with this; at most for ``BUILD_WITHIN_S``."""
        job = BuildProcess(request)
        try:
            async with asyncio.timeout(BUILD_WITHIN_S):
                self.accepted = await job.begin()
                while (message := await job.next_message()) is not None:
                    self._heed(message)
        except ConfigRefused as error:
            self.mistakes += error.mistakes
        except TimeoutError:
            self._fail(f"was not built within {BUILD_WITHIN_S:.0f} s")
        except (OSError, ValueError, ServeException) as error:
            self._fail(f"could not be built: {error}")
        finally:
            await job.stop()
        if not self.mistakes and self.accepted is not None and len(self.built) < len(self.accepted.names):
            self._fail("the process that builds has ended unexpectedly; look at the log of who has started it")

    def _heed(self, message: BuildMessage) -> None:
        match message:
            case Progress(app=app, text=text):
                self.progress[app] = text
            case Built(application=spec):
                self.built.append(message)
                self.progress.pop(spec.name, None)
            case Failed(app=app, mistakes=mistakes):
                self.mistakes += mistakes
                self.progress.pop(app, None)
            case _:
                raise ValueError(f"an unexpected {type(message).__name__}")

    def _fail(self, why: str) -> None:
        self.mistakes.append(Mistake((), why, of_config=False))


class CheckedBuild:
    """A ``Build`` that a check has made."""

    def __init__(self, accepted: Accepted, built: list[Built]) -> None:
        self._accepted = accepted
        self._built = iter(built)

    async def begin(self) -> Accepted:
        """It was found to be right."""
        return self._accepted

    async def next_message(self) -> BuildMessage | None:
        """The next application, None after the last."""
        return next(self._built, None)

    async def stop(self) -> None:
        """There is nothing that goes on."""


class Ticket(Struct, frozen=True):
    """What is about to be declared.

    Attributes:
        number: grows with the time at which it began.
        build: of a check; None where it is to be built.
    """

    number: int
    build: CheckedBuild | None = None


@dataclass(slots=True)
class _Check:
    request: BuildRequest
    number: int
    findings: Findings = field(default_factory=Findings)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    expiry: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        try:
            await self.findings.gather(self.request)
        finally:
            self.finished.set()


class Checks:
    """The checks of one instance.

    Args:
        code: where import paths are looked for.
        of_code: the applications that configs do not replace, with their route prefixes.
    """

    def __init__(self, code: CodeContext, of_code: Callable[[], Mapping[str, str | None]]) -> None:
        self._code = code
        self._of_code = of_code
        self._numbers = count(1)
        self._checks: dict[str, _Check] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._declared_number = 0
        self._declared_at_s: float | None = None

    def begin(self, config: JsonDict) -> str:
        """Begin to check ``config``; by what the check is known. Raises TooManyChecks."""
        if len(self._tasks) >= AT_A_TIME:
            raise TooManyChecks(AT_A_TIME)
        for name in [name for name, each in self._checks.items() if each.finished.is_set()][: 1 - AT_A_TIME]:
            self._drop(name)
        name = secrets.token_hex(8)
        check = _Check(BuildRequest(config, self._code), next(self._numbers))
        check.task = asyncio.create_task(check.run())
        self._tasks.add(check.task)
        check.task.add_done_callback(self._tasks.discard)
        self._checks[name] = check
        self._keep(name, check, KEPT_S)
        return name

    async def wait(self, name: str, wait_s: float) -> CheckAnswer:
        """How far a check is, once it is finished or after ``wait_s`` seconds. Raises NoSuchCheck."""
        check = self._named(name)
        self._keep(name, check, wait_s + KEPT_S)
        try:
            await asyncio.wait_for(check.finished.wait(), wait_s)
        except TimeoutError:
            pass
        found = check.findings
        mistakes = (*found.mistakes, *_taken_prefixes(check.request.config, found.accepted, self._of_code()))
        overtaken = self._declared_at_s if check.number < self._declared_number else None
        return CheckAnswer(check.finished.is_set(), dict(found.progress), mistakes, overtaken)

    def take(self, name: str | None, config: JsonDict) -> Ticket:
        """For a declaration: what the check ``name`` of the same config has built, without a mistake.

        Raises:
            Overtaken: something was declared that began after that check.
        """
        check = self._checks.get(name or "")
        if check is None or not check.finished.is_set():  # the controller is perhaps another
            return Ticket(next(self._numbers))
        if self._declared_at_s is not None and check.number < self._declared_number:
            raise Overtaken(self._declared_at_s)
        found = check.findings
        if found.accepted is None or found.mistakes or check.request.config != config:
            return Ticket(next(self._numbers))
        self._drop(name or "")
        return Ticket(check.number, CheckedBuild(found.accepted, found.built))

    def declared(self, number: int, at_s: float) -> None:
        """What has this number was accepted."""
        self._declared_number, self._declared_at_s = number, at_s

    async def stop(self) -> None:
        """End all of them. May be called twice."""
        for name in list(self._checks):
            self._drop(name)
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _named(self, name: str) -> _Check:
        try:
            return self._checks[name]
        except KeyError:
            raise NoSuchCheck(name) from None

    def _keep(self, name: str, check: _Check, seconds: float) -> None:
        if check.expiry is not None:
            check.expiry.cancel()
        check.expiry = asyncio.get_running_loop().call_later(seconds, self._drop, name)

    def _drop(self, name: str) -> None:
        check = self._checks.pop(name)
        if check.expiry is not None:
            check.expiry.cancel()
        if check.task is not None:
            check.task.cancel()


def _taken_prefixes(
    config: JsonDict, accepted: Accepted | None, of_code: Mapping[str, str | None]
) -> Iterator[Mistake]:
    """Prefixes in a config, of the right form, that applications have which stay beside it."""
    if accepted is None:
        return
    holders = {prefix: name for name, prefix in of_code.items() if prefix is not None and name not in accepted.names}
    applications: list[JsonDict] = config["applications"]
    for index, application in enumerate(applications):
        prefix = application.get("route_prefix", "/")
        if prefix in holders:
            text = f"is the prefix of application {holders[prefix]!r}, which code has deployed: delete that first"
            at = ("applications", index, "route_prefix")
            yield Mistake(at, f"applications[{index}].route_prefix={prefix!r}: {text}")
