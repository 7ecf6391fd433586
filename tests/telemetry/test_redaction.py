"""Secrets never come through, wherever they are; nothing else is changed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.telemetry.redaction import REDACTED, is_secret, redacted

SECRET = "hunter2-do-not-show"

WORDS = st.text("abcXYZ_-0", max_size=6)
SECRET_NAMES = st.one_of(
    st.sampled_from(["authorization", "Cookie", "SET-COOKIE", "set_cookie", "x-api-key", "X_API_KEY"]),
    st.builds(
        lambda before, word, after: before + word + after,
        WORDS,
        st.sampled_from(["token", "Token", "SECRET", "secret", "password", "PassWord"]),
        WORDS,
    ),
)
PLAIN_NAMES = st.sampled_from(["model", "path", "author", "cookies_eaten", "x-api", "key", "pass", ""])
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5))


def containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.dictionaries(PLAIN_NAMES, children, max_size=3),
        st.lists(children, max_size=3),
        st.lists(children, max_size=3).map(tuple),
    )


HIDDEN = st.one_of(
    st.dictionaries(SECRET_NAMES, st.just(SECRET), min_size=1, max_size=2),
    st.dictionaries(SECRET_NAMES.map(str.encode), st.just(SECRET), min_size=1, max_size=2),
    st.tuples(SECRET_NAMES, st.just(SECRET)),
    st.tuples(SECRET_NAMES.map(str.encode), st.just(SECRET.encode())),
    st.lists(st.tuples(SECRET_NAMES, st.just({"deep": [SECRET]})).map(list), min_size=1, max_size=2),
)


@given(st.recursive(HIDDEN, containers, max_leaves=8))
def test_no_secret_comes_through(value: Any) -> None:
    assert "hunter2" not in repr(redacted(value))


@given(SECRET_NAMES, st.recursive(PLAIN, containers, max_leaves=4))
def test_a_value_of_a_secret_name_is_not_shown_whatever_it_is(name: str, value: Any) -> None:
    assert redacted(value, name) == REDACTED


@given(st.recursive(PLAIN, containers, max_leaves=8))
def test_what_is_not_secret_is_not_changed(value: Any) -> None:
    assert redacted(value) == value


def test_the_original_stays_as_it_is() -> None:
    original = {"env": {"HF_TOKEN": SECRET}, "headers": [("Cookie", SECRET)]}
    assert redacted(original) == {"env": {"HF_TOKEN": REDACTED}, "headers": [("Cookie", REDACTED)]}
    assert original == {"env": {"HF_TOKEN": SECRET}, "headers": [("Cookie", SECRET)]}


def test_what_contains_itself_ends() -> None:
    circle: list[Any] = []
    circle.append(circle)
    assert "..." in repr(redacted(circle))


@pytest.mark.parametrize(
    ("name", "secret"),
    [("Proxy-Authorization", True), ("authorization_url", False), ("OPENAI_API_KEY", False), ("max_tokens", True)],
)
def test_names(name: str, secret: bool) -> None:
    assert is_secret(name) is secret
