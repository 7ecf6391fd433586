"""Errors as text of bounded length, whatever users' classes do when they are asked for it."""

from __future__ import annotations

MESSAGE_LIMIT = 16 * 1024
"""Most characters of an exception's own text that leave the process; a repr of 50 MB helps nobody."""

TRACEBACK_LIMIT = 64 * 1024
"""Most characters of a traceback, in a frame and in the log."""


def bounded(text: str, limit: int) -> str:
    """``text``, or its beginning and its end with a note of what is missing between them; always valid as UTF-8."""
    if len(text) > limit:
        kept = limit // 2
        text = f"{text[:kept]} … [{len(text) - 2 * kept} characters left out] … {text[-kept:]}"
    return text.encode(errors="backslashreplace").decode()


def text_of(error: BaseException, limit: int = MESSAGE_LIMIT) -> str:
    """``str(error)``, also where a user's ``__str__`` raises or has no end."""
    try:
        return bounded(str(error), limit)
    except BaseException:  # noqa: BLE001 - SystemExit too: that is what this is for
        return f"<{_short_name(error)} whose __str__ raises>"


def type_name(value: object) -> str:
    """The class of ``value``, with its module unless that is ``builtins``, also where a metaclass lies about it."""
    kind = type(value)
    try:
        module, name = str(kind.__module__), str(kind.__qualname__)
    except BaseException:  # noqa: BLE001 - as above
        module, name = "builtins", type.__repr__(kind)
    return bounded(name if module == "builtins" else f"{module}.{name}", 200)


def describe(error: BaseException, limit: int = 1000) -> str:
    """Class and text of an error, for the end of a sentence."""
    return f"{_short_name(error)}: {text_of(error, limit)}"


def _short_name(value: object) -> str:
    return type_name(value).rpartition(".")[2]
