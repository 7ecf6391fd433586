"""The OpenAPI document: complete, valid, and what a fuzzer finds when it takes it by its word."""

from __future__ import annotations

from typing import Any

import hypothesis
import msgspec
import pytest

from harness.fuzzing import times
from salver.controller.api.openapi import openapi_document
from salver.controller.client import ControlClient

from .control_scene import Server, application, ask, ask_tcp

schemathesis: Any = pytest.importorskip("schemathesis")


def described() -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, methods in openapi_document()["paths"].items() for method in methods}


def test_every_route_is_described_and_nothing_else(server: Server) -> None:
    assert described() == {(each.method, each.path) for each in server.api.endpoints()}


def test_the_document_is_served(server: Server) -> None:
    document = msgspec.json.decode(msgspec.json.encode(openapi_document()))
    assert ask(server, "GET", "/openapi.json")[2] == document
    assert ask_tcp(server, "GET", "/openapi.json").body == document


def test_parameters_of_paths_are_described() -> None:
    for path, methods in openapi_document()["paths"].items():
        named = {part.strip("{}") for part in path.split("/") if part.startswith("{")}
        for operation in methods.values():
            in_path = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
            assert in_path == named, path


CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "unsupported_method",
)


def fuzzed(operation: Any, mode: str, headers: dict[str, str]) -> set[int]:
    """Send many requests of one operation, check each answer; the statuses that came."""
    checks = schemathesis.checks.CHECKS.get_by_names(CHECKS)
    statuses = set[int]()

    @hypothesis.settings(max_examples=times(15), deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode]))
    def examine(case: Any) -> None:
        if "wait_s" in (case.query or {}):
            case.query["wait_s"] = "0"
        statuses.add(case.call_and_validate(headers=headers, checks=checks, timeout=60).status_code)

    examine()
    return statuses


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_a_fuzzer_finds_no_error_of_ours_and_no_answer_that_is_not_described(
    server: Server, client: ControlClient, mode: str
) -> None:
    """With requests as they are described, and with ones that are not."""
    client.deploy(application())
    client.wait_settled("app", 30)
    schema = schemathesis.openapi.from_dict(ask(server, "GET", "/openapi.json")[2])
    schema.config.update(base_url=f"http://127.0.0.1:{server.port}")
    headers = {"authorization": f"Bearer {server.token}"}
    operations = [result.ok() for result in schema.get_all_operations()]
    statuses = {(each.method.upper(), each.path): fuzzed(each, mode, headers) for each in operations}
    assert set(statuses) == described()
    assert 400 in statuses["PUT", "/api/serve/applications/"]
    assert client.status().controller_pid == 7
