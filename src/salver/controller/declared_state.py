"""The last config that was accepted, and what has come of it, in a file: a new controller goes on from there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from salver.records import CodeContext, JsonDict


class BuildState(Struct, frozen=True):
    """An application of the config that is not deployed: it is being built, or that has failed.

    Attributes:
        message: what the build does, or the user's traceback.
    """

    status: Literal["DEPLOYING", "DEPLOY_FAILED"]
    message: str = ""


class DeclaredState(Struct, frozen=True):
    """One declaration.

    Attributes:
        code: where import paths are looked for.
        names: of its applications.
        target_capacity: in percent, None for all.
        builds: applications that are not deployed.
        settled: all has been done about it that there was to do.
        accepted_at_s, deployed_at_s: see ``Declaration``.
    """

    config: JsonDict
    code: CodeContext
    names: tuple[str, ...]
    target_capacity: float | None = None
    builds: dict[str, BuildState] = {}
    settled: bool = False
    accepted_at_s: float = 0.0
    deployed_at_s: dict[str, float] = {}

    def prefixes(self) -> dict[str, str | None]:
        """The route prefixes that the config says, by application; None is no route."""
        applications: list[JsonDict] = self.config.get("applications", [])
        return {each.get("name", "default"): each.get("route_prefix", "/") for each in applications}


class DeclaredFile:
    """Keeps one ``DeclaredState``; a crash leaves the old one or the new one."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "declared.json"

    def save(self, state: DeclaredState | None) -> None:
        """None removes the file. Raises OSError."""
        if state is None:
            self.path.unlink(missing_ok=True)
            return
        temporary = self.path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(state))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    def load(self) -> DeclaredState | None:
        """None when nothing is declared. Raises OSError, and ValueError for a file that is damaged."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return msgspec.json.decode(data, type=DeclaredState)
        except msgspec.DecodeError as error:  # no ValueError before msgspec 0.22
            raise ValueError(str(error)) from error

    def put_aside(self) -> Path:
        """Rename a damaged file, so that it can be looked at."""
        return self.path.replace(self.path.with_suffix(".damaged"))
