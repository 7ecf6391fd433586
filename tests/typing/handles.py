"""Golden file: what type checkers make of handles. Read by ``test_golden.py``; never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Never, assert_type

from salver.serve.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator


class Translator:
    async def __call__(self, text: str, times: int = 1) -> str:
        return text * times

    async def translate(self, text: str) -> str:
        return text

    def count(self, text: str) -> int:
        return len(text)

    async def tokens(self, text: str) -> AsyncIterator[str]:
        yield text

    def words(self, text: str) -> Iterator[bytes]:
        yield text.encode()


class PoliteTranslator(Translator):
    pass


class Summarizer:
    def __call__(self, text: str, limit: int) -> bytes:
        return text[:limit].encode()


class Chat:
    def __call__(self, text: str) -> Iterator[str]:
        yield text


async def call(handle: DeploymentHandle[Translator], summarizer: DeploymentHandle[Summarizer]) -> None:
    assert_type(handle.remote("x"), DeploymentResponse[str])
    assert_type(await handle.remote("x", times=2), str)
    assert_type(handle.remote("x").result(timeout_s=1.0), str)
    assert_type(summarizer.remote("x", 3).result(), bytes)
    handle.remote(1)  # error: "text" of type "str" | argument type "int"
    handle.remote()  # error: No overloads | require at least one argument
    handle.remote("x", tmes=2)  # error: No overloads | No overload variant
    summarizer.remote("x", limit="y")  # error: "limit" of type "int" | argument types "str", "str"


async def methods(handle: DeploymentHandle[Translator]) -> None:
    assert_type(handle[Translator.translate].remote("x"), DeploymentResponse[str])
    assert_type(handle[Translator.count].remote("x").result(), int)
    assert_type(handle.options(method_name=Translator.translate).remote("x"), DeploymentResponse[str])
    assert_type(handle.options(method_name=Translator.count, session_id="s").remote("x").result(), int)
    handle[Translator.translate].remote(3)  # error: "text" of type "str" | argument type "int"
    handle[Translator.count].remote("x", 1)  # error: No overloads | No overload variant
    handle[Summarizer.__call__]  # error: "Translator" is incompatible with type "Summarizer" | Invalid index type
    handle.options(method_name=Summarizer.__call__)  # error: No overloads | incompatible type
    handle.options(methd_name="count")  # error: No overloads | Unexpected keyword argument
    handle.options(multiplexed_model_id=1)  # error: No overloads | No overload variant


async def streams(handle: DeploymentHandle[Translator], chat: DeploymentHandle[Chat]) -> None:
    assert_type(handle[Translator.tokens].remote("x"), DeploymentResponseGenerator[str])
    stream = handle.options(method_name=Translator.words, stream=True).remote("x")
    assert_type(stream, DeploymentResponseGenerator[bytes])
    async for item in stream:
        assert_type(item, bytes)
    for letter in chat.options(stream=True).remote("x"):
        assert_type(letter, str)
    assert_type(chat.remote("x"), DeploymentResponse[Never])
    handle[Translator.words].remote(1)  # error: "text" of type "str" | argument type "int"
    handle.options(method_name=Translator.translate, stream=True)  # error: No overloads | No overload variant


async def composition(handle: DeploymentHandle[Translator], summarizer: DeploymentHandle[Summarizer]) -> None:
    text = handle.remote("x")
    assert_type(await handle.remote(text), str)
    assert_type(await summarizer.remote(text, 3), bytes)
    assert_type(await summarizer.remote("x", handle[Translator.count].remote("x")), bytes)
    assert_type(await handle[Translator.translate].remote(text), str)


def functions(handle: DeploymentHandle[Callable[[str], bytes]]) -> None:
    assert_type(handle.remote("x"), DeploymentResponse[bytes])
    handle.remote(1)  # error: "Literal[1]" is not assignable to "str" | argument type "int"


def covariance(polite: DeploymentHandle[PoliteTranslator], plain: DeploymentHandle[Translator]) -> None:
    general: DeploymentHandle[Translator] = polite
    special: DeploymentHandle[PoliteTranslator] = plain  # error: not assignable | Incompatible types
    general.remote("x")
    special.remote("x")


async def unchecked(handle: DeploymentHandle[Translator], anything: DeploymentHandle, given: Any) -> None:
    assert_type(anything, DeploymentHandle[Any])
    assert_type(anything.remote(1, key=2), DeploymentResponse[Any])
    assert_type(handle.translate.remote(1), DeploymentResponse[Any])
    assert_type(handle.options(method_name="translate").remote(1), DeploymentResponse[Any])
    assert_type(anything.options(stream=True).remote(), DeploymentResponseGenerator[Any])
    assert_type(handle.options(stream=True).tokens.remote("x"), DeploymentResponseGenerator[Any])
    assert_type(handle.tokens.options(stream=True).remote("x"), DeploymentResponseGenerator[Any])
    known: DeploymentHandle[Translator] = anything
    await known.remote(given)
