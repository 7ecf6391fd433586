"""The keys of a ``runtime_env``: which there are, what they hold, how two environments are one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from salver.records import JsonDict
from salver.serve.validation import WRONG_KEY, OptionsError, Problem, did_you_mean

_INSTEAD = {
    "conda": "list the packages in 'pip', or start Salver in the conda environment",
    "container": "run Salver itself in the container",
    "image_uri": "run Salver itself in the container",
    "uv": "list the packages in 'pip', which takes the same requirements",
    "py_executable": "start Salver with that interpreter",
    "java_jars": "there is no Java here",
    "mpi": "start the processes in the constructor",
    "nsight": "start the profiler in the constructor",
    "rocprof_sys": "start the profiler in the constructor",
    "worker_process_setup_hook": "call the function in the constructor, or when your module is imported",
    "config": "leave it out: there is no limit to set",
}
"""What Ray has and we have not, and what to do."""

_PIP_KEYS = ("packages", "pip_check", "pip_install_options")
_SHOWN_CHARS = 80

_Place = tuple[int | str, ...]
"""Where something is in the environment: keys and indices."""


def check_runtime_env(env: JsonDict) -> JsonDict:
    """``env``, if its keys and the types of their values are right; files are not looked at.

    Raises:
        OptionsError: names each key that is wrong, or not supported, where it is, and what to do.
    """
    problems: list[Problem] = []
    for key, value in env.items():
        if key not in _CHECKS:
            problems.append(_unknown(key))
        elif value is not None:
            problems += _CHECKS[key]((key,), value)
    if problems:
        raise OptionsError(problems)
    return env


def merge_runtime_env(application: JsonDict, deployment: JsonDict) -> JsonDict:
    """What a deployment has that states ``deployment`` in an application that states ``application``.

    Its own keys win; of ``env_vars``, each variable.
    """
    merged = {**application, **{key: value for key, value in deployment.items() if value is not None}}
    ours: dict[str, str] = application.get("env_vars") or {}
    own: dict[str, str] = deployment.get("env_vars") or {}
    return {**merged, "env_vars": {**ours, **own}} if ours or own else merged


def _unknown(key: str) -> Problem:
    if key in _INSTEAD:
        return _wrong_key((key,), f"is not supported by Salver: {_INSTEAD[key]}")
    return _no_such_key((key,), [*_CHECKS, *_INSTEAD])


# --- one key --------------------------------------------------------------------------------------------


def _check_env_vars(at: _Place, value: object) -> list[Problem]:
    if not isinstance(value, dict):
        return [_must_be(at, value, "a dict of names to strings")]
    variables = cast("dict[object, object]", value)
    return [
        *(_must_be((*at, str(name)), text, "a string") for name, text in variables.items() if not _is_text(text)),
        *(_wrong_key((*at, str(name)), "is no name of a variable") for name in variables if not _is_variable(name)),
    ]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_variable(name: object) -> bool:
    return isinstance(name, str) and bool(name) and "=" not in name and "\0" not in name


def _check_folder(at: _Place, value: object) -> list[Problem]:
    return _check_path(at, value, "the path of a folder or a .zip file")


def _check_modules(at: _Place, value: object) -> list[Problem]:
    allowed = "the path of a folder, a .py file or a .whl file"
    if not isinstance(value, list):
        return [_must_be(at, value, f"a list, of which each is {allowed}")]
    entries = enumerate(cast("list[object]", value))
    return [problem for number, each in entries for problem in _check_path((*at, number), each, allowed)]


def _check_path(at: _Place, value: object, allowed: str) -> list[Problem]:
    if not isinstance(value, str) or not value or "\0" in value:
        return [_must_be(at, value, allowed)]
    if "://" in value:
        return [_must_be(at, value, f"{allowed} on this machine: download it first")]
    return []


def _check_pip(at: _Place, value: object) -> list[Problem]:
    if isinstance(value, str):
        return _check_path(at, value, "the path of a requirements file")
    if isinstance(value, list):
        return _check_texts(at, cast("list[object]", value))
    if not isinstance(value, dict):
        return [_must_be(at, value, "a list of requirements, the path of a requirements file, or a dict")]
    given = cast("dict[object, object]", value)
    problems = [_no_such_key((*at, str(name)), _PIP_KEYS) for name in given if name not in _PIP_KEYS]
    packages = given.get("packages")
    if "packages" not in given:
        problems.append(Problem((*at, "packages"), ": is required"))
    elif isinstance(packages, str):
        problems += _check_path((*at, "packages"), packages, "the path of a requirements file")
    else:
        problems += _check_texts((*at, "packages"), packages)
    problems += _check_texts((*at, "pip_install_options"), given.get("pip_install_options", []))
    if not isinstance(given.get("pip_check", False), bool):
        problems.append(_must_be((*at, "pip_check"), given["pip_check"], "true or false"))
    return problems


def _check_texts(at: _Place, value: object) -> list[Problem]:
    if not isinstance(value, list):
        return [_must_be(at, value, "a list of strings")]
    entries = enumerate(cast("list[object]", value))
    return [_must_be((*at, number), each, "a line of text") for number, each in entries if not _is_line(each)]


def _is_line(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not {"\n", "\r", "\0"} & set(value)


# --- what is said ---------------------------------------------------------------------------------------


def _must_be(at: _Place, value: object, allowed: str) -> Problem:
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN_CHARS else f"{shown[: _SHOWN_CHARS - 1]}…"
    return Problem(at, f"={shown}: must be {allowed}")


def _no_such_key(at: _Place, known: Sequence[str]) -> Problem:
    return _wrong_key(at, f"there is no such key.{did_you_mean(str(at[-1]), known)}")


def _wrong_key(at: _Place, why: str) -> Problem:
    return Problem(at, f": {why}", WRONG_KEY)


_CHECKS: Mapping[str, Callable[[_Place, Any], list[Problem]]] = {
    "env_vars": _check_env_vars,
    "working_dir": _check_folder,
    "py_modules": _check_modules,
    "pip": _check_pip,
    "excludes": _check_texts,
}
