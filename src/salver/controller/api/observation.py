"""Routes that show how an instance is, and change nothing."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from salver.controller.api.answers import asked_count, asked_wait_s, json_answer
from salver.controller.api.guard import AUTHORIZED
from salver.controller.api.routing import Endpoint
from salver.controller.api.subject import Subject
from salver.controller.api_records import EventsAnswer, ReadyAnswer, VersionAnswer
from salver.controller.documents import unready

RAY_API_VERSION = "5"
RAY_VERSION = "2.60.0"
"""The version of Ray whose API this is; its clients refuse servers that are too old for them."""


class ObservationRoutes:
    """What can be looked at."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._controller = subject.controller

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint("GET", "/livez", self._live),
            Endpoint("GET", "/readyz", self._ready),
            Endpoint("GET", "/api/v1/status", self._status),
            Endpoint("GET", "/api/v1/events", self._events),
            Endpoint("GET", "/api/serve/metrics", self._metrics),
            Endpoint("GET", "/api/ray/version", self._version),
        )

    async def _live(self, _request: Request) -> Response:
        """Whether the controller answers; what replicas do is no reason to restart it."""
        return json_answer({"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        """Whether every application has replicas for requests; with ``verbose`` which has not, and why."""
        reasons = unready(self._subject.views())
        may_know = request.scope.get(AUTHORIZED, True) and "verbose" in request.query_params
        answer = ReadyAnswer("not ready" if reasons else "ok", reasons if may_know else None)
        return json_answer(answer, 503 if reasons else 200)

    async def _status(self, request: Request) -> Response:
        """Everything. With ``settled=NAME`` wait up to ``wait_s`` until that application runs or has failed."""
        wait_s = asked_wait_s(request)
        name = request.query_params.get("settled")
        if name is not None:
            await self._subject.wait_until_settled(name, wait_s)
        return self._subject.show(await self._subject.status())

    async def _events(self, request: Request) -> Response:
        """What has happened after number ``after``; when nothing has, wait up to ``wait_s`` until something does."""
        after, wait_s = asked_count(request, "after"), asked_wait_s(request)
        app, deployment = (request.query_params.get(name, "") for name in ("app", "deployment"))
        history = self._controller.history
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        found = history.after(after, app, deployment)
        while not found and after <= history.last and await history.wait(history.last, deadline - loop.time()):
            found = history.after(after, app, deployment)
        return self._subject.show(EventsAnswer(found, history.last))

    async def _metrics(self, _request: Request) -> Response:
        """Every metric of the instance, added up over its processes."""
        return json_answer(self._controller.metrics.families())

    async def _version(self, _request: Request) -> Response:
        """Which version of Ray's API this is, and whose it is."""
        info = self._subject.info()
        return json_answer(VersionAnswer(RAY_API_VERSION, RAY_VERSION, "", info.name, info.version))
