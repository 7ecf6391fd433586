"""Configs as they come with a request, and what takes them."""

from __future__ import annotations

from starlette.requests import Request

from salver.controller.api.answers import Refusal, read_json
from salver.controller.api.subject import Configs, Subject
from salver.controller.redaction import redacted_places
from salver.records import JsonDict


def configs_of(subject: Subject) -> Configs:
    """What takes the configs of the instance. Raises Refusal where nothing does."""
    if subject.configs is None:
        raise Refusal(503, "This instance takes no configs.")
    return subject.configs


async def read_config(request: Request) -> JsonDict:
    """The config in the body. Raises Refusal, also when it has what is shown instead of a secret."""
    config = await read_json(request, JsonDict)
    places = redacted_places(config)
    if places:
        raise Refusal(400, f"{places[0].lstrip('.')} is what we show instead of a secret: put the value there.")
    return config
