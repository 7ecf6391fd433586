"""Requests that meet in a batch: one call of the model for up to 16 of them. `salver run app:app`.

The model is a stand-in that takes as long for sixteen texts as for one, which is what a real one does on a GPU.
Each request comes with one text and gets one answer; only `score` sees lists.
"""

import asyncio
from typing import TypedDict

from starlette.requests import Request

from salver import serve

GOOD = frozenset({"good", "great", "fine", "lovely", "fast"})
BAD = frozenset({"bad", "poor", "awful", "ugly", "slow"})


class Score(TypedDict):
    score: int
    scored_together: int


@serve.deployment
class Sentiment:
    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.05)
    async def score(self, texts: list[str]) -> list[Score]:
        await asyncio.sleep(0.1)
        return [{"score": tone(text), "scored_together": len(texts)} for text in texts]

    async def __call__(self, request: Request) -> Score:
        text = (await request.body()).decode()
        return await self.score(text)


def tone(text: str) -> int:
    words = text.lower().split()
    return sum(word in GOOD for word in words) - sum(word in BAD for word in words)


app = Sentiment.bind()
