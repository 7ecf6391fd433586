"""A FastAPI ingress with a child behind it, for Salver and Ray Serve.

A module of its own because importing FastAPI takes memory and time that no other application should pay for.
"""

from typing import Any

from fastapi import FastAPI
from serving import deployment, serve

api = FastAPI()


class EchoText:
    async def echo(self, text: str) -> str:
        return text


@serve.ingress(api)
class Ingress:
    def __init__(self, child: Any) -> None:
        self.child = child

    @api.get("/")
    async def echo(self, text: str = "hello") -> str:
        return await self.child.echo.remote(text)


def build(replicas: int) -> Any:
    return deployment(Ingress, num_replicas=replicas).bind(deployment(EchoText).bind())
