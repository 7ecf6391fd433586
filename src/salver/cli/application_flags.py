"""The flags that say which application, and what its code needs; of every command that deploys one."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, cast

import click
import msgspec
from msgspec import Struct

from salver.cli.sections import SectionedOption

_SECTION = "Application"


class ApplicationFlags(Struct, frozen=True):
    """What the user said about the application.

    Attributes:
        app_dir: the folder to import from.
        name, route_prefix: of an application that an import path names; None is not said.
        compat: ``import ray`` means Salver even if Ray is installed.
        runtime_env: what its replicas need; None is not said.
    """

    app_dir: str
    name: str | None
    route_prefix: str | None
    compat: bool
    runtime_env: dict[str, Any] | None

    def only_for_import_paths(self) -> list[str]:
        """The flags that were given and that a config file has no use for, as the user wrote them."""
        said = {"--name": self.name, "--route-prefix": self.route_prefix, "--runtime-env": self.runtime_env}
        return [flag for flag, value in said.items() if value is not None]


def _flag(*declarations: str, **attributes: Any) -> Any:
    return click.option(*declarations, cls=SectionedOption, section=_SECTION, **attributes)


_FLAGS = (
    _flag(
        "-d", "--app-dir", default=".", type=click.Path(exists=True, file_okay=False), help="Folder to import from."
    ),
    _flag("--name", metavar="TEXT", help="Its name; 'default' unless given."),
    _flag("--route-prefix", metavar="TEXT", help="Path prefix of its requests; '/' unless given."),
    _flag("--compat", is_flag=True, help="Let `import ray` mean Salver even if Ray is installed."),
    _flag(
        "--runtime-env",
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False),
        help="What its replicas need, as a YAML file: env_vars, working_dir, py_modules, pip.",
    ),
    _flag("--runtime-env-json", metavar="JSON", help="The same as JSON."),
    _flag("--working-dir", metavar="DIR", help="Folder in which its replicas run; over that of --runtime-env."),
)
_NAMES = ("app_dir", "name", "route_prefix", "compat", "runtime_env", "runtime_env_json", "working_dir")


def application_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flags to a command; it gets them as one argument, ``application``."""

    @wraps(command)
    def with_application(**values: Any) -> None:
        flags = {name: values.pop(name) for name in _NAMES}
        environment = _runtime_env(flags["runtime_env"], flags["runtime_env_json"], flags["working_dir"])
        application = ApplicationFlags(
            flags["app_dir"], flags["name"], flags["route_prefix"], flags["compat"], environment
        )
        command(application=application, **values)

    for flag in reversed(_FLAGS):
        with_application = flag(with_application)
    return with_application


def _runtime_env(file: str | None, text: str | None, working_dir: str | None) -> dict[str, Any] | None:
    if file is not None and text is not None:
        raise click.UsageError("--runtime-env and --runtime-env-json: one of them.")
    if file is None and text is None and working_dir is None:
        return None
    environment = _of_file(Path(file)) if file is not None else _of_json(text or "{}")
    return environment if working_dir is None else {**environment, "working_dir": working_dir}


def _of_file(path: Path) -> dict[str, Any]:
    import yaml  # only who has such a file carries it

    try:
        return _as_mapping("--runtime-env", yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise click.BadParameter(f"{path}: {error}", param_hint="--runtime-env") from None


def _of_json(text: str) -> dict[str, Any]:
    try:
        return _as_mapping("--runtime-env-json", msgspec.json.decode(text))
    except msgspec.DecodeError as error:
        raise click.BadParameter(str(error), param_hint="--runtime-env-json") from None


def _as_mapping(flag: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise click.BadParameter("must be a mapping.", param_hint=flag)
    return cast("dict[str, Any]", value)
