"""Routes that check a config: everything is built as for a deploy, and nothing is changed."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from salver.controller.api.answers import Refusal, asked_wait_s, json_answer
from salver.controller.api.configs import configs_of, read_config
from salver.controller.api.routing import Endpoint
from salver.controller.api.subject import Subject
from salver.controller.api_records import CheckBegun
from salver.controller.refusals import NoSuchCheck, TooManyChecks


class CheckRoutes:
    """What can be checked."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint("POST", "/api/v1/checks", self._begin),
            Endpoint("GET", "/api/v1/checks/{check}", self._check),
        )

    async def _begin(self, request: Request) -> Response:
        """Begin to check a config; the answer comes before it is checked."""
        config = await read_config(request)
        try:
            return json_answer(CheckBegun(configs_of(self._subject).checks.begin(config)))
        except TooManyChecks as error:
            raise Refusal(503, str(error)) from None

    async def _check(self, request: Request) -> Response:
        """How far a check is, once it is finished or after ``wait_s`` seconds."""
        wait_s = asked_wait_s(request)
        try:
            answer = await configs_of(self._subject).checks.wait(request.path_params["check"], wait_s)
        except NoSuchCheck as error:
            raise Refusal(404, str(error)) from None
        return self._subject.show(answer)
