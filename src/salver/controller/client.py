"""The control API from the other side, for scripts and the command line: blocking, small, standard library only."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import quote, urlencode

import msgspec

from salver.controller.api_records import (
    CheckAnswer,
    CheckBegun,
    DeclaredAnswer,
    DeployedAnswer,
    EventsAnswer,
    StatusAnswer,
)
from salver.controller.network_address import NetworkAddress
from salver.errors import ServeException
from salver.records import ApplicationSpec, JsonDict
from salver.views import ApplicationView, Happening

_INSTANCE = "/api/serve/applications/"
_CHECKS = "/api/v1/checks"
_ANSWERS_WITHIN_S = 20.0
"""Beside what it is asked to wait for. One that does not is replaced before that time is over."""

_CHECKS_WITHIN_S = 60.0
_AWAY_AT_MOST_S = 5.0


class ControlRefused(ServeException):
    """The controller understood and said no; the message is its reason.

    Attributes:
        status: of the HTTP answer.
        problems: each by itself, where there may be several.
    """

    def __init__(self, message: str, status: int = 0, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.problems = problems


class ControlUnreachable(ServeException):
    """The instance does not answer: it is stopping, or it is gone."""


class Control(Protocol):
    """What can be asked of an instance."""

    def deploy(self, spec: ApplicationSpec) -> float: ...

    def delete(self, name: str, wait_s: float) -> bool: ...

    def status(self) -> StatusAnswer: ...

    def wait_settled(self, name: str, wait_s: float) -> ApplicationView | None: ...


class ControlClient:
    """Asks one instance's controller, through its Unix socket or, with a token, over TCP.

    A request that meets a controller in the moment of its death is sent again to the next, if doing it twice is the
    same as doing it once.

    Raises (all methods):
        ControlRefused: the request is wrong; ``status`` says how.
        ControlUnreachable: no controller answers: within 5 s, where it is gone, else within 20 s beside what it is
            asked to wait for.
    """

    def __init__(self, where: Path | NetworkAddress) -> None:
        self._where = where

    def deploy(self, spec: ApplicationSpec) -> float:
        """Its ``last_deployed_time_s``, until somebody deploys or rolls back that application."""
        answer = self._request("PUT", _application(spec.name), msgspec.msgpack.encode(spec))
        return msgspec.json.decode(answer, type=DeployedAnswer).last_deployed_time_s

    def delete(self, name: str, wait_s: float) -> bool:
        """Whether it was gone within ``wait_s`` seconds."""
        answer = self._request("DELETE", f"{_application(name)}?wait_s={wait_s}", wait_s=wait_s)
        return bool(msgspec.json.decode(answer)["gone"])

    def status(self) -> StatusAnswer:
        return msgspec.json.decode(self._request("GET", "/api/v1/status"), type=StatusAnswer)

    def wait_settled(self, name: str, wait_s: float) -> ApplicationView | None:
        """The application once it runs or has failed, or as it is after ``wait_s`` seconds; None when unknown."""
        target = f"/api/v1/status?settled={quote(name, safe='')}&wait_s={wait_s}"
        answer = self._request("GET", target, wait_s=wait_s)
        status = msgspec.json.decode(answer, type=StatusAnswer)
        return next((view for view in status.applications if view.name == name), None)

    def declare(self, config: JsonDict, check: str | None = None) -> DeclaredAnswer:
        """Deploy a config, given as its JSON object. Returns as soon as it is accepted, before it is built.

        Args:
            check: a check of it that is finished; what that has built is deployed.
        """
        target = _INSTANCE if check is None else f"{_INSTANCE}?check={quote(check, safe='')}"
        answer = self._request("PUT", target, msgspec.json.encode(config), wait_s=_CHECKS_WITHIN_S)
        return msgspec.json.decode(answer, type=DeclaredAnswer)

    def begin_check(self, config: JsonDict) -> str:
        """Have a config built, and nothing changed; the name of the check."""
        answer = self._request("POST", _CHECKS, msgspec.json.encode(config))
        return msgspec.json.decode(answer, type=CheckBegun).check

    def check(self, name: str, wait_s: float) -> CheckAnswer:
        """How far a check is, once it is finished or after ``wait_s`` seconds. It ends when nobody asks for it."""
        answer = self._request("GET", f"{_CHECKS}/{quote(name, safe='')}?wait_s={wait_s}", wait_s=wait_s)
        return msgspec.json.decode(answer, type=CheckAnswer)

    def details(self, api_type: str | None = None) -> JsonDict:
        """The whole instance, in Ray Serve's words; ``api_type``: only what is ``declarative`` or ``imperative``."""
        query = "" if api_type is None else f"?api_type={quote(api_type, safe='')}"
        return msgspec.json.decode(self._request("GET", _INSTANCE + query), type=JsonDict)

    def shutdown_applications(self) -> None:
        """End the instance, applications and all; returns before it has ended."""
        self._request("DELETE", _INSTANCE)

    def rollback(self, name: str) -> float:
        """Deploy the version again that ran before; as ``deploy``.

        Raises:
            ControlUnreachable: also when it is not known whether it was done: a second time would undo the first.
        """
        answer = self._request("POST", f"{_application(name)}/rollback", once=True)
        return msgspec.json.decode(answer, type=DeployedAnswer).last_deployed_time_s

    def scale(self, app: str, deployment: str, num_replicas: int) -> None:
        """Set the number of replicas of a deployment whose application has ``external_scaler_enabled``."""
        target = f"{_application(app)}/deployments/{quote(deployment, safe='')}/scale"
        self._request("POST", target, msgspec.json.encode({"target_num_replicas": num_replicas}))

    def events(
        self, after: int = 0, wait_s: float = 0.0, app: str = "", deployment: str = ""
    ) -> tuple[Happening, ...]:
        """What has happened after that number, oldest first; waits up to ``wait_s`` seconds, at most 60, for some.

        Args:
            app, deployment: only what concerns these; empty for all.
        """
        query = urlencode({"after": after, "wait_s": wait_s, "app": app, "deployment": deployment})
        answer = self._request("GET", f"/api/v1/events?{query}", wait_s=wait_s)
        return msgspec.json.decode(answer, type=EventsAnswer).events

    def _request(
        self, method: str, target: str, body: bytes | None = None, *, wait_s: float = 0.0, once: bool = False
    ) -> bytes:
        """The answer's body.

        Args:
            wait_s: how long the controller may wait for something before it answers.
            once: what was sent is not sent again, for it may have been done.
        """
        from salver.controller.http_exchange import exchange  # not before it is needed: most replicas never ask

        deadline = time.monotonic() + _AWAY_AT_MOST_S
        while True:
            try:
                status, data = exchange(self._where, method, target, body, wait_s + _ANSWERS_WITHIN_S)
            except FileNotFoundError as error:
                raise ControlUnreachable("The instance is gone.") from error
            except ConnectionRefusedError as error:
                self._wait_for_the_next(deadline, error)
            except OSError as error:
                if once:
                    raise ControlUnreachable(
                        f"The controller went away; look at the status to see whether it was done: {error}"
                    ) from error
                self._wait_for_the_next(deadline, error)
            else:
                if status >= 400:
                    raise _refusal(status, data)
                return data

    def _wait_for_the_next(self, deadline: float, error: OSError) -> None:
        if time.monotonic() > deadline:
            if isinstance(self._where, NetworkAddress):
                raise ControlUnreachable(f"No control API answers at {self._where} ({error}).") from error
            raise ControlUnreachable(
                f"The controller does not answer ({error}). Requests are served as before. Its log may say why: "
                f"{self._where.parent}/logs/"
            ) from error
        time.sleep(0.05)


def _application(name: str) -> str:
    return f"/api/v1/applications/{quote(name, safe='')}"


def _refusal(status: int, data: bytes) -> ControlRefused:
    try:
        problem: Any = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return ControlRefused(data.decode(errors="replace"), status)
    if not isinstance(problem, dict):
        return ControlRefused(str(problem), status)
    members = cast("dict[str, Any]", problem)
    problems: list[Any] = members.get("problems") or []
    return ControlRefused(str(members.get("detail", members)), status, tuple(map(str, problems)))
