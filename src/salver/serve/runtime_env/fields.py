"""The keys of a ``runtime_env``: which there are, what they hold, how two environments are one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from salver.records import JsonDict
from salver.serve.validation import OptionsError, did_you_mean

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


def check_runtime_env(env: JsonDict) -> JsonDict:
    """``env``, if its keys and the types of their values are right; files are not looked at.

    Raises:
        OptionsError: names each key that is wrong, or not supported, and what to do.
    """
    problems: list[str] = []
    for key, value in env.items():
        if key not in _CHECKS:
            problems.append(_unknown(key))
        elif value is not None:
            problems += _CHECKS[key](key, value)
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


def _unknown(key: str) -> str:
    if key in _INSTEAD:
        return f"{key}: is not supported by Salver: {_INSTEAD[key]}"
    return f"{key}: there is no such key.{did_you_mean(key, [*_CHECKS, *_INSTEAD])}"


# --- one key --------------------------------------------------------------------------------------------


def _check_env_vars(key: str, value: object) -> list[str]:
    if not isinstance(value, dict):
        return [_must_be(key, value, "a dict of names to strings")]
    variables = cast("dict[object, object]", value)
    return [
        *(_must_be(f"{key}[{name!r}]", text, "a string") for name, text in variables.items() if not _is_text(text)),
        *(f"{key}[{name!r}]: is no name of a variable" for name in variables if not _is_variable(name)),
    ]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_variable(name: object) -> bool:
    return isinstance(name, str) and bool(name) and "=" not in name and "\0" not in name


def _check_folder(key: str, value: object) -> list[str]:
    return _check_path(key, value, "the path of a folder or a .zip file")


def _check_modules(key: str, value: object) -> list[str]:
    allowed = "the path of a folder, a .py file or a .whl file"
    if not isinstance(value, list):
        return [_must_be(key, value, f"a list, of which each is {allowed}")]
    entries = enumerate(cast("list[object]", value))
    return [problem for number, each in entries for problem in _check_path(f"{key}[{number}]", each, allowed)]


def _check_path(key: str, value: object, allowed: str) -> list[str]:
    if not isinstance(value, str) or not value or "\0" in value:
        return [_must_be(key, value, allowed)]
    if "://" in value:
        return [_must_be(key, value, f"{allowed} on this machine: download it first")]
    return []


def _check_pip(key: str, value: object) -> list[str]:
    if isinstance(value, str):
        return _check_path(key, value, "the path of a requirements file")
    if isinstance(value, list):
        return _check_texts(key, cast("list[object]", value))
    if not isinstance(value, dict):
        return [_must_be(key, value, "a list of requirements, the path of a requirements file, or a dict")]
    given = cast("dict[str, object]", value)
    problems = [
        f"{key}.{name}: there is no such key.{did_you_mean(name, _PIP_KEYS)}" for name in given.keys() - {*_PIP_KEYS}
    ]
    packages = given.get("packages")
    if isinstance(packages, str):
        problems += _check_path(f"{key}.packages", packages, "the path of a requirements file")
    else:
        problems += _check_texts(f"{key}.packages", packages)
    problems += _check_texts(f"{key}.pip_install_options", given.get("pip_install_options", []))
    if not isinstance(given.get("pip_check", False), bool):
        problems.append(_must_be(f"{key}.pip_check", given["pip_check"], "true or false"))
    return problems


def _check_texts(key: str, value: object) -> list[str]:
    if not isinstance(value, list):
        return [_must_be(key, value, "a list of strings")]
    entries = enumerate(cast("list[object]", value))
    return [_must_be(f"{key}[{number}]", each, "a line of text") for number, each in entries if not _is_line(each)]


def _is_line(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not {"\n", "\r", "\0"} & set(value)


def _must_be(key: str, value: object, allowed: str) -> str:
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN_CHARS else f"{shown[: _SHOWN_CHARS - 1]}…"
    return f"{key}={shown}: must be {allowed}"


_CHECKS: Mapping[str, Callable[[str, Any], list[str]]] = {
    "env_vars": _check_env_vars,
    "working_dir": _check_folder,
    "py_modules": _check_modules,
    "pip": _check_pip,
    "excludes": _check_texts,
}
