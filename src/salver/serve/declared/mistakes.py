"""From an exception of a build to the places in the config that it is about.

Errors of ours know where in the configuration of an application they belong (``ConfigurationError.about``, and ``at``
of each problem); of deployments they know the name, of which the config has the index. What else is raised, and what
happens in code of the user's, belongs to the import path, which has led there.
"""

from __future__ import annotations

from typing import Any, cast

from salver.controller.build_messages import Mistake
from salver.errors import ConfigurationError
from salver.records import JsonDict
from salver.serve.building.import_path import raised_by_user, user_traceback
from salver.serve.validation import WRONG_KEY, OptionsError, Problem

_MESSAGE_CHARS = 20_000
_IMPORT_PATH = ("import_path",)

Place = tuple[int | str, ...]


def invalid_config(error: OptionsError) -> tuple[Mistake, ...]:
    """What is wrong in a config by itself."""
    return tuple(Mistake(each.at, str(each), of_key=each.kind == WRONG_KEY) for each in error.found)


def why_not_built(config: JsonDict, error: BaseException) -> str:
    """``error`` for the user: with the traceback through their code, if it went through that."""
    text = f"{config['import_path']}: {error}" if _is_ours(error) else user_traceback(error).rstrip()
    return _shortened(text)


def mistakes_of(index: int, config: JsonDict, error: BaseException) -> tuple[Mistake, ...]:
    """The same by place.

    Args:
        index: of the application in the config.
        config: what that says of it.
    """
    application = _Application(index, config)
    about = error.about if isinstance(error, ConfigurationError) else ()
    if not _is_ours(error):
        failed = f"failed:\n{user_traceback(error).rstrip()}"
        return (application.mistake(about, Problem((), failed), of_config=False),)
    found = error.found if isinstance(error, OptionsError) else (Problem((), str(error)),)
    of_config = not _may_pass(error)
    return tuple(application.mistake(about, each, of_config=of_config) for each in found)


def broken_process(index: int, config: JsonDict, how: str) -> tuple[Mistake, ...]:
    """The process that built an application has ended in the middle."""
    problem = Problem((), how)
    return (_Application(index, config).mistake((), problem, of_config=False),)


class _Application:
    """One application of a config, as places are counted there."""

    def __init__(self, index: int, config: JsonDict) -> None:
        self._place: Place = ("applications", index)
        self._config = config

    def mistake(self, about: Place, problem: Problem, *, of_config: bool) -> Mistake:
        """``problem``, which is below ``about``."""
        at = (*about, *problem.at) or _IMPORT_PATH
        rule = problem.rule
        if at[0] == "deployments" and len(at) > 1:
            index = self._index_of(at[1])
            if index is None:  # the mistake is in the code, which has deployments that the config does not name
                rule = f"deployment {at[1]!r}: {problem._replace(at=at[2:])}"
                at = _IMPORT_PATH
            else:
                at = ("deployments", index, *at[2:])
        if not problem.at or at == _IMPORT_PATH:
            rule = f"{self._shown(at)}: {rule}"
        whole = Problem((*self._place, *at), rule)
        return Mistake(whole.at, _shortened(str(whole)), of_key=problem.kind == WRONG_KEY, of_config=of_config)

    def _shown(self, at: Place) -> str:
        """The value there, if it is a text."""
        value: Any = self._config
        for key in at:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):  # it is in the code only
                return ""
        return f"={value!r}" if isinstance(value, str) else ""

    def _index_of(self, deployment: object) -> int | None:
        listed = cast("list[dict[str, Any]]", self._config.get("deployments") or [])
        return next((place for place, each in enumerate(listed) if each.get("name") == deployment), None)


def _is_ours(error: BaseException) -> bool:
    module = type(error).__module__
    return (module.startswith("salver.") or isinstance(error, TypeError)) and not raised_by_user(error)


def _may_pass(error: BaseException) -> bool:
    from salver.serve.runtime_env.cache import NotPreparedError  # few have a runtime_env

    return isinstance(error, NotPreparedError)


def _shortened(text: str) -> str:
    if len(text) <= _MESSAGE_CHARS:
        return text
    half = _MESSAGE_CHARS // 2
    return f"{text[:half]}\n[…]\n{text[-half:]}"
