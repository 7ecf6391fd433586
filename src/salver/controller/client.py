"""The control API from the other side, for scripts and the command line: blocking, small, standard library only."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import quote

import msgspec

from salver.controller.api_records import StatusAnswer
from salver.errors import ServeException
from salver.records import ApplicationSpec
from salver.views import ApplicationView

_TIMEOUT_S = 90.0
_AWAY_AT_MOST_S = 5.0


class ControlRefused(ServeException):
    """The controller understood and said no; the message is its reason."""


class ControlUnreachable(ServeException):
    """The instance does not answer: it is stopping, or it is gone."""


class Control(Protocol):
    """What can be asked of an instance."""

    def deploy(self, spec: ApplicationSpec) -> None: ...

    def delete(self, name: str, wait_s: float) -> bool: ...

    def status(self) -> StatusAnswer: ...

    def wait_settled(self, name: str, wait_s: float) -> ApplicationView | None: ...


class ControlClient:
    """Asks one instance's controller.

    Every request is idempotent, so one that meets a controller in the moment of its death is sent again to the next.

    Raises (all methods):
        ControlRefused: the request is wrong.
        ControlUnreachable: no controller answers within 5 s.
    """

    def __init__(self, control_socket: Path) -> None:
        self._path = control_socket

    def deploy(self, spec: ApplicationSpec) -> None:
        self._request("PUT", f"/api/v1/applications/{quote(spec.name, safe='')}", msgspec.msgpack.encode(spec))

    def delete(self, name: str, wait_s: float) -> bool:
        """Whether it was gone within ``wait_s`` seconds."""
        answer = self._request("DELETE", f"/api/v1/applications/{quote(name, safe='')}?wait_s={wait_s}")
        return bool(msgspec.json.decode(answer)["gone"])

    def status(self) -> StatusAnswer:
        return msgspec.json.decode(self._request("GET", "/api/v1/status"), type=StatusAnswer)

    def wait_settled(self, name: str, wait_s: float) -> ApplicationView | None:
        """The application once it runs or has failed, or as it is after ``wait_s`` seconds; None when unknown."""
        answer = self._request("GET", f"/api/v1/status?settled={quote(name, safe='')}&wait_s={wait_s}")
        status = msgspec.json.decode(answer, type=StatusAnswer)
        return next((view for view in status.applications if view.name == name), None)

    def _request(self, method: str, target: str, body: bytes | None = None) -> bytes:
        from salver.controller.unix_http import exchange  # not before it is needed: most replicas never ask

        deadline = time.monotonic() + _AWAY_AT_MOST_S
        while True:
            try:
                status, data = exchange(self._path, method, target, body, _TIMEOUT_S)
            except FileNotFoundError as error:
                raise ControlUnreachable("The instance is gone.") from error
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ControlUnreachable(f"The controller does not answer: {error}") from error
                time.sleep(0.05)
            else:
                if status >= 400:
                    raise ControlRefused(_detail(data))
                return data


def _detail(data: bytes) -> str:
    try:
        problem: Any = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return data.decode(errors="replace")
    if isinstance(problem, dict):
        return str(cast("dict[str, Any]", problem).get("detail", problem))
    return str(problem)
