"""One ingress and two deployments behind it, called in parallel. `salver run pipeline:app`.

A text comes in; its first words and the number of words before and after come out. The work is trivial so
that the calls show: what is awaited, what runs at the same time, what one call passes to the next.
"""

import asyncio
from typing import TypedDict

from starlette.requests import Request

from salver import serve
from salver.serve.handle import DeploymentHandle


class Summary(TypedDict):
    beginning: str
    words_in_text: int
    words_in_beginning: int


@serve.deployment
class Shortener:
    def __init__(self, limit: int):
        self.limit = limit

    def shorten(self, text: str) -> str:
        return " ".join(text.split()[: self.limit])


@serve.deployment(num_replicas=2)
class Counter:
    def count(self, text: str) -> int:
        return len(text.split())


@serve.deployment
class Ingress:
    def __init__(self, shortener: DeploymentHandle, counter: DeploymentHandle):
        self.shortener = shortener
        self.counter = counter

    async def __call__(self, request: Request) -> Summary:
        text = (await request.body()).decode(errors="replace")

        # remote() does not wait: both calls are on their way before either has an answer.
        beginning = self.shortener.shorten.remote(text)
        words_in_text = self.counter.count.remote(text)
        # A response may be the argument of another call: Counter receives the string, when it is there.
        words_in_beginning = self.counter.count.remote(beginning)

        answers = await asyncio.gather(beginning, words_in_text, words_in_beginning)
        return Summary(beginning=answers[0], words_in_text=answers[1], words_in_beginning=answers[2])


app = Ingress.bind(Shortener.bind(limit=5), Counter.bind())
