"""Asks the ASGI application that a replica would serve for an object, without a replica."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from fastapi import FastAPI


def served(instance: object) -> Any:
    return instance.__serve_build_asgi_app__()  # pyright: ignore[reportAttributeAccessIssue]


def ask(app: Any, *paths: str, method: str = "GET", root_path: str = "", **options: Any) -> list[Any]:
    """JSON of each path, or its status when it is not 200."""

    async def ask_all() -> list[Any]:
        transport = httpx.ASGITransport(app, root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://web") as client:
            answers = [await client.request(method, root_path + path, **options) for path in paths]
        return [answer.json() if answer.status_code == 200 else answer.status_code for answer in answers]

    return asyncio.run(ask_all())


def query_names(app: FastAPI, path: str) -> list[str]:
    (operation,) = app.openapi()["paths"][path].values()
    return [parameter["name"] for parameter in operation.get("parameters", [])]
