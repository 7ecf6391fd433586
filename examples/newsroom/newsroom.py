"""A web service with all that one can have. `salver run newsroom:app`, then open it in a browser.

    page.html: fetch, EventSource, WebSocket
         │
      Newsroom ── HTTP and WebSocket, no model of its own
         ├─ Ranker      scores headlines, many at once
         ├─ NewsWire    tells a story while it happens
         ├─ Editor      answers in a chat
         └─ Translator  one model for each language, loaded when somebody asks for it

The models are stand-ins, so that the wiring shows; each could be a real one in a process of its own.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, Query, Request, WebSocket
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, Field

from salver import serve
from salver.serve.handle import DeploymentHandle

PAGE = Path(__file__).with_name("page.html")
STORY = (
    "A ship has run aground.",
    "All hands are safe.",
    "It carried bananas.",
    "Zoos have offered help.",
    "“Überraschend”, says a seal.",
    "The tide is coming in.",
    "She floats again!",
)
EXCITING = frozenset({"aground", "bananas", "free", "safe", "ship"})
DICTIONARIES = {
    "de": {"the": "das", "ship": "Schiff", "is": "ist", "free": "frei"},
    "fr": {"the": "le", "ship": "navire", "is": "est", "free": "libre"},
    "it": {"the": "la", "ship": "nave", "is": "è", "free": "libera"},
}


class Headline(BaseModel):
    text: str = Field(min_length=1, max_length=200)


class Rank(BaseModel):
    score: int
    ranked_together: int = Field(description="how many headlines the model was given at once")


class Translation(BaseModel):
    text: str
    loads: int = Field(description="how many models this replica has loaded so far")


class Photo(BaseModel):
    bytes: int
    sha256: str


@serve.deployment(max_ongoing_requests=64)
class Ranker:
    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.05)
    async def rank(self, texts: list[str]) -> list[Rank]:
        await asyncio.sleep(0.1)  # for one or for sixteen
        return [Rank(score=excitement(text), ranked_together=len(texts)) for text in texts]


def excitement(text: str) -> int:
    return sum(word in EXCITING for word in text.lower().split())


@serve.deployment(max_ongoing_requests=100)
class NewsWire:
    async def sentences(self, first: int, pause_s: float) -> AsyncGenerator[str]:
        for number, sentence in enumerate(STORY[first:]):
            if number:
                await asyncio.sleep(pause_s)
            yield sentence


@serve.deployment(max_ongoing_requests=100)
class Editor:
    async def reply(self, text: str, turn: int) -> str:
        return f"{turn}. {text.removesuffix('?')}? Print it."


@serve.deployment
class Translator:
    def __init__(self) -> None:
        self.loads = 0

    @serve.multiplexed(max_num_models_per_replica=2)
    async def model(self, language: str) -> dict[str, str]:
        self.loads += 1
        return DICTIONARIES[language]

    async def translate(self, text: str) -> Translation:
        model = await self.model(serve.get_multiplexed_model_id())
        words = [model.get(word, word) for word in text.lower().split()]
        return Translation(text=" ".join(words), loads=self.loads)


api = FastAPI(title="Newsroom")


@serve.deployment(max_ongoing_requests=100)
@serve.ingress(api)
class Newsroom:
    def __init__(
        self, ranker: DeploymentHandle, wire: DeploymentHandle, editor: DeploymentHandle, translator: DeploymentHandle
    ) -> None:
        self.ranker = ranker
        self.wire = wire
        self.editor = editor
        self.translator = translator

    @api.get("/")
    async def page(self) -> FileResponse:
        return FileResponse(PAGE)

    @api.post("/ranks")
    async def rank(self, headline: Headline) -> Rank:
        return await self.ranker.rank.remote(headline.text)

    @api.get("/story")
    async def story(
        self, pause_s: Annotated[float, Query(ge=0, le=60)] = 0.5, last_event_id: Annotated[int, Header(ge=-1)] = -1
    ) -> StreamingResponse:
        """Server-sent events. A browser that has lost its connection says how far it got, and the story goes on."""
        first = last_event_id + 1
        sentences = self.wire.options(stream=True).sentences.remote(first, pause_s)
        return StreamingResponse(events(first, sentences), media_type="text/event-stream")

    @api.websocket("/chat")
    async def chat(self, socket: WebSocket) -> None:
        await socket.accept()
        turn = 0
        async for text in socket.iter_text():
            turn += 1
            await socket.send_text(await self.editor.reply.remote(text, turn))

    @api.get("/translations")
    async def translate(self, text: str) -> Translation:
        """In the language that the header `serve_multiplexed_model_id` names."""
        language = serve.get_multiplexed_model_id()
        if language not in DICTIONARIES:
            raise HTTPException(404, f"no translator for {language!r}, only for {', '.join(DICTIONARIES)}")
        return await self.translator.options(multiplexed_model_id=language).translate.remote(text)

    @api.put("/photos")
    async def photo(self, request: Request) -> Photo:
        """Takes the body as it comes: no photo is ever whole in memory."""
        size, digest = 0, hashlib.sha256()
        async for piece in request.stream():
            size += len(piece)
            digest.update(piece)
        return Photo(bytes=size, sha256=digest.hexdigest())


async def events(first: int, sentences: AsyncIterator[str]) -> AsyncGenerator[str]:
    number = first
    async for sentence in sentences:
        yield f"id: {number}\nretry: 500\ndata: {sentence}\n\n"
        number += 1
    yield f"event: end\ndata: {number} sentences\n\n"  # without it, a browser would connect again


app = Newsroom.bind(Ranker.bind(), NewsWire.bind(), Editor.bind(), Translator.bind())
