"""The OpenAPI 3.1 document of the control API: written by hand, with the schemas of the records that answers are.

A test compares it with the table of routes: what is here is there, and nothing else.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from salver import __version__
from salver.controller.api.answers import json_answer
from salver.controller.api.applications import ScaleRequest
from salver.controller.api.routing import Endpoint
from salver.controller.api_records import (
    CheckAnswer,
    CheckBegun,
    DeclaredAnswer,
    DeployedAnswer,
    EventsAnswer,
    ReadyAnswer,
    StatusAnswer,
    VersionAnswer,
)
from salver.controller.instance_details import InstanceDetails
from salver.controller.metrics_store import MetricFamily

Schema = dict[str, Any]

_RECORDS = (
    InstanceDetails,
    CheckAnswer,
    CheckBegun,
    DeclaredAnswer,
    DeployedAnswer,
    StatusAnswer,
    EventsAnswer,
    ReadyAnswer,
    VersionAnswer,
    MetricFamily,
    ScaleRequest,
)
_NOTHING: Schema = {"type": "object", "additionalProperties": False}
_PROBLEM: Schema = {
    "type": "object",
    "description": "RFC 9457; detail is one sentence for people.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "problems": {"type": "array", "items": {"type": "string"}},
    },
}
_REASONS = {
    400: "The request is wrong; detail says what.",
    401: "No valid token (TCP only).",
    403: "Not from there: a page of another origin, or code over the network (TCP only).",
    404: "There is no such application, deployment or check.",
    408: "The body did not come in time.",
    409: "It contradicts what there is.",
    412: "The application does not let others scale it.",
    413: "The body is too large.",
    421: "The Host header is not one of this API's names (TCP only).",
    503: "Not now.",
}
_ON_TCP = (401, 403, 421)
_WITH_BODY = (400, 408, 413)

_WAIT_S: Schema = {
    "name": "wait_s",
    "in": "query",
    "description": "How long to wait for it, in seconds; at most 60 count.",
    "schema": {"type": "number", "default": 0},
}


class _Operation(Struct, frozen=True):
    """One method of one path, as the document describes it."""

    summary: str
    answer: Schema
    refusals: tuple[int, ...] = ()
    parameters: tuple[Schema, ...] = ()
    body: Schema | None = None
    statuses: tuple[int, ...] = (200,)


def _ref(record: type[Struct]) -> Schema:
    return {"$ref": f"#/components/schemas/{record.__name__}"}


def _path(name: str, description: str) -> Schema:
    schema = {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


def _query(name: str, description: str, **schema: Any) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string", **schema}}


def _json(schema: Schema) -> Schema:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _object(**properties: Schema) -> Schema:
    return {
        "type": "object",
        "required": list(properties),
        "properties": properties,
        "additionalProperties": False,
    }


_NAME = _path("name", "Of the application.")
_OPERATIONS: dict[tuple[str, str], _Operation] = {
    ("GET", "/api/serve/applications/"): _Operation(
        "The whole instance, in Ray Serve's words.",
        _ref(InstanceDetails),
        (400,),
        (_query("api_type", "Only applications of this origin: declarative or imperative."),),
    ),
    ("PUT", "/api/serve/applications/"): _Operation(
        "Deploy a config; applications of an earlier config that it does not name are deleted.",
        _ref(DeclaredAnswer),
        (*_WITH_BODY, 409, 503),
        (_query("check", "A check of this config that is finished: what it has built is deployed."),),
        _json({"type": "object"}),
    ),
    ("DELETE", "/api/serve/applications/"): _Operation("End the instance, after this answer.", _NOTHING),
    ("POST", "/api/v1/checks"): _Operation(
        "Begin to check a config: it is built, and nothing is changed.",
        _ref(CheckBegun),
        (*_WITH_BODY, 503),
        body=_json({"type": "object"}),
    ),
    ("GET", "/api/v1/checks/{check}"): _Operation(
        "How far a check is. One that nobody asks for within 15 s ends.",
        _ref(CheckAnswer),
        (400, 404, 503),
        (_path("check", "Of the check."), _WAIT_S),
    ),
    ("PUT", "/api/v1/applications/{name}"): _Operation(
        "Deploy an application that code has built. On the Unix socket only.",
        _ref(DeployedAnswer),
        (*_WITH_BODY, 409),
        (_NAME,),
        {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
    ),
    ("DELETE", "/api/v1/applications/{name}"): _Operation(
        "Delete an application; one that is not there is gone already.",
        _object(gone={"type": "boolean"}),
        (400,),
        (_NAME, _WAIT_S),
    ),
    ("POST", "/api/v1/applications/{name}/rollback"): _Operation(
        "Deploy the last good version of an application again.",
        _ref(DeployedAnswer),
        (404, 409),
        (_NAME,),
    ),
    ("POST", "/api/v1/applications/{app}/deployments/{deployment}/scale"): _Operation(
        "Set the number of replicas of a deployment whose application has external_scaler_enabled.",
        _object(message={"type": "string"}),
        (*_WITH_BODY, 404, 412),
        (_path("app", "The application."), _path("deployment", "Its deployment.")),
        _json(_ref(ScaleRequest)),
    ),
    ("GET", "/livez"): _Operation(
        "Whether the controller answers. Needs no token.", _object(status={"type": "string"})
    ),
    ("GET", "/readyz"): _Operation(
        "Whether every application has replicas for requests. Needs no token.",
        _ref(ReadyAnswer),
        parameters=(_query("verbose", "Say which has not and why; needs a token."),),
        statuses=(200, 503),
    ),
    ("GET", "/api/v1/status"): _Operation(
        "Everything, in this project's words.",
        _ref(StatusAnswer),
        (400,),
        (_query("settled", "Wait until this application runs or has failed."), _WAIT_S),
    ),
    ("GET", "/api/v1/events"): _Operation(
        "What has happened; waits for the next when there is nothing yet.",
        _ref(EventsAnswer),
        (400,),
        (
            {**_query("after", "Only those with a higher number.", default=0), "schema": {"type": "integer"}},
            _WAIT_S,
            _query("app", "Only those of this application."),
            _query("deployment", "Only those of this deployment."),
        ),
    ),
    ("GET", "/api/serve/metrics"): _Operation(
        "Every metric, added up over the processes.", {"type": "array", "items": _ref(MetricFamily)}
    ),
    ("GET", "/api/ray/version"): _Operation("Which version of Ray's API this is.", _ref(VersionAnswer)),
    ("GET", "/openapi.json"): _Operation("This document.", {"type": "object"}),
}


def openapi_document() -> Schema:
    """The document, made anew: it is asked for seldom."""
    _, schemas = msgspec.json.schema_components(_RECORDS, ref_template="#/components/schemas/{name}")
    paths: Schema = {}
    for (method, path), operation in _OPERATIONS.items():
        paths.setdefault(path, {})[method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Salver control API",
            "version": __version__,
            "description": "Operates one instance. On TCP with a token; on its Unix socket for its user.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Problem": _PROBLEM},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(operation: _Operation) -> Schema:
    described: Schema = {
        "summary": operation.summary,
        "responses": {
            **{str(status): _response("The answer.", operation.answer) for status in operation.statuses},
            **{
                str(status): _response(_REASONS[status], {"$ref": "#/components/schemas/Problem"}, problem=True)
                for status in sorted({*operation.refusals, *_ON_TCP})
            },
        },
    }
    if operation.parameters:
        described["parameters"] = list(operation.parameters)
    if operation.body is not None:
        described["requestBody"] = operation.body
    return described


def _response(description: str, schema: Schema, *, problem: bool = False) -> Schema:
    media_type = "application/problem+json" if problem else "application/json"
    return {"description": description, "content": {media_type: {"schema": schema}}}


def document_endpoint() -> Endpoint:
    async def answer(_request: Request) -> Response:
        """This API, described."""
        return json_answer(openapi_document())

    return Endpoint("GET", "/openapi.json", answer)
