"""A FastAPI application whose routes are methods of a deployment. `salver run reviews:app`.

FastAPI validates, documents and answers; the class holds what is loaded once in each replica.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException, Path
from pydantic import BaseModel, Field

from salver import serve
from salver.serve.handle import DeploymentHandle


class Review(BaseModel):
    text: str = Field(min_length=1, max_length=500)


class Opinion(BaseModel):
    number: int
    score: float = Field(description="from -1, bad, to 1, good")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    print("a replica is up")
    yield
    print("a replica is down")


api = FastAPI(title="Reviews", lifespan=lifespan)


@serve.deployment
class Model:
    """Stands for one that is worth a process of its own."""

    good, bad = {"great", "lovely", "fast"}, {"ugly", "broken", "slow"}

    def score(self, text: str) -> float:
        words = set(text.lower().split())
        found = len(words & self.good), len(words & self.bad)
        return (found[0] - found[1]) / max(1, sum(found))


@serve.deployment
@serve.ingress(api)
class Reviews:
    def __init__(self, model: DeploymentHandle) -> None:
        self.model = model
        self.opinions: list[Opinion] = []

    @api.post("/reviews", status_code=201)
    async def add(self, review: Review) -> Opinion:
        score = await self.model.score.remote(review.text)
        self.opinions.append(Opinion(number=len(self.opinions), score=score))
        return self.opinions[-1]

    @api.get("/reviews/{number}")
    async def get(self, number: Annotated[int, Path(ge=0)]) -> Opinion:
        if number >= len(self.opinions):
            raise HTTPException(404, f"there is no review {number}")
        return self.opinions[number]


app = Reviews.bind(Model.bind())
