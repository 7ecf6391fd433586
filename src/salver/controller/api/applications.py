"""Routes that deploy, delete and change applications."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response

from salver.controller.api.answers import Refusal, asked_wait_s, json_answer, read_body, read_json
from salver.controller.api.configs import configs_of, read_config
from salver.controller.api.routing import Endpoint
from salver.controller.api.subject import Subject
from salver.controller.api_records import DeployedAnswer
from salver.controller.documents import DECLARATIVE, IMPERATIVE, instance_details
from salver.controller.refusals import (
    ConfigRefused,
    NoSuchApplication,
    NoSuchDeployment,
    NothingToRollBackTo,
    Overtaken,
    PrefixTaken,
    ScalerDisabled,
)
from salver.errors import ServeException
from salver.records import ApplicationSpec

_SPEC_BYTES = 512 * 1024 * 1024
_SPEC_WITHIN_S = 300.0
_ORIGINS = (DECLARATIVE, IMPERATIVE)


class ScaleRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """How many replicas somebody outside has decided on."""

    target_num_replicas: Annotated[int, Meta(ge=0, le=1_000_000)]


class ApplicationRoutes:
    """What can be asked about applications."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._controller = subject.controller

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint("GET", "/api/serve/applications/", self._details),
            Endpoint("PUT", "/api/serve/applications/", self._declare),
            Endpoint("DELETE", "/api/serve/applications/", self._end),
            Endpoint("PUT", "/api/v1/applications/{name}", self._deploy, from_this_machine=True),
            Endpoint("DELETE", "/api/v1/applications/{name}", self._delete),
            Endpoint("POST", "/api/v1/applications/{name}/rollback", self._roll_back),
            Endpoint("POST", "/api/v1/applications/{app}/deployments/{deployment}/scale", self._scale),
        )

    async def _details(self, request: Request) -> Response:
        """The whole instance; with ``api_type`` only applications that came from there."""
        source = request.query_params.get("api_type", "").lower()
        if source and source not in _ORIGINS:
            raise Refusal(400, f"api_type must be one of {', '.join(_ORIGINS)}.")
        status, health = await self._subject.status(), self._controller.health()
        return self._subject.show(instance_details(status, self._subject.config(), source, health))

    async def _declare(self, request: Request) -> Response:
        """Take a config: what it names is deployed, and what an earlier one named and this one does not, deleted.

        With ``check=NAME`` what that check has built is deployed, and nothing is built again.
        """
        config = await read_config(request)
        try:
            accepted = await configs_of(self._subject).declare(config, request.query_params.get("check"))
        except ConfigRefused as error:
            raise Refusal(400, str(error), more={"problems": list(error.problems)}) from None
        except Overtaken as error:
            raise Refusal(409, str(error)) from None
        except ServeException as error:
            raise Refusal(503, str(error)) from None
        return json_answer(accepted)

    async def _end(self, _request: Request) -> Response:
        """End the instance, as Ray Serve's ``DELETE`` shuts Serve down; the answer comes before the end."""
        answer = json_answer({})
        answer.background = BackgroundTask(self._end_instance)
        return answer

    async def _end_instance(self) -> None:
        self._subject.end_instance()

    async def _deploy(self, request: Request) -> Response:
        """Accept an application; the answer comes before it runs (``/status`` waits)."""
        body = await read_body(request, _SPEC_BYTES, _SPEC_WITHIN_S)
        try:
            spec = msgspec.msgpack.decode(body, type=ApplicationSpec)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refusal(400, f"not an application: {error}") from None
        if spec.name != request.path_params["name"]:
            raise Refusal(400, f"the path names '{request.path_params['name']}', the body '{spec.name}'")
        try:
            deployed_at_s = self._controller.deploy(spec)
        except PrefixTaken as error:
            raise Refusal(409, str(error)) from None
        return json_answer(DeployedAnswer(deployed_at_s))

    async def _delete(self, request: Request) -> Response:
        """Delete an application and wait until it is gone, at most ``wait_s`` seconds (default 0)."""
        name = request.path_params["name"]
        wait_s = asked_wait_s(request)
        if self._subject.configs is not None:
            self._subject.configs.forget(name)
        self._controller.delete(name)
        gone = await self._controller.wait_until_gone(name, wait_s)
        return json_answer({"gone": gone})

    async def _roll_back(self, request: Request) -> Response:
        """Deploy the last good version of an application again."""
        try:
            deployed_at_s = self._controller.rollback(request.path_params["name"])
        except NoSuchApplication as error:
            raise Refusal(404, str(error)) from None
        except NothingToRollBackTo as error:
            raise Refusal(409, str(error)) from None
        return json_answer(DeployedAnswer(deployed_at_s))

    async def _scale(self, request: Request) -> Response:
        """Set the number of replicas of a deployment whose application says ``external_scaler_enabled``."""
        wanted = await read_json(request, ScaleRequest)
        try:
            self._controller.scale(
                request.path_params["app"], request.path_params["deployment"], wanted.target_num_replicas
            )
        except (NoSuchDeployment, NoSuchApplication) as error:
            raise Refusal(404, str(error)) from None
        except ScalerDisabled as error:
            raise Refusal(412, str(error)) from None
        return json_answer({"message": "The number of replicas is accepted; the deployment is scaled to it now."})
