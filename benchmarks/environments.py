"""The peers' virtual environments: made below `.venv-peers` on first use with plain pip, and used again later.

Salver, FastAPI on uvicorn, bare uvicorn and the bare pair share the environment that runs the benchmarks (install the
dependency group `bench`): the same interpreter, uvloop and httptools, so that they differ in nothing but themselves.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".venv-peers"
INSTALL_WITHIN_S, LOOKED_UP_WITHIN_S = 1200, 60


class NotInstalledError(Exception):
    """Why a peer cannot be measured here, in words for the report."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a server runs.

    Attributes:
        name: of its folder; empty for the environment that runs the benchmarks.
        requirements: as pip takes them.
        reported: the distributions whose versions matter.
    """

    name: str
    requirements: tuple[str, ...]
    reported: tuple[str, ...]

    @property
    def python(self) -> Path:
        return FOLDER / self.name / "bin" / "python" if self.name else Path(sys.executable)

    def command(self, name: str) -> str:
        """The path of a command that is installed in it."""
        return str(self.python.with_name(name))

    def prepare(self) -> dict[str, str]:
        """Makes it if need be. Returns versions, by distribution. Raises NotInstalledError with pip's last words."""
        if not self.name:
            return self._versions()
        stamp = FOLDER / self.name / "requirements"
        wanted = "\n".join(self.requirements)
        if not stamp.exists() or stamp.read_text() != wanted:
            self._install()
            stamp.write_text(wanted)
        return self._versions()

    def _install(self) -> None:
        venv.create(FOLDER / self.name, with_pip=True)
        command = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        try:
            subprocess.run(
                [*command, *self.requirements], capture_output=True, text=True, check=True, timeout=INSTALL_WITHIN_S
            )
        except subprocess.CalledProcessError as error:
            last = error.stderr.strip().splitlines()[-1:] or ["pip said nothing"]
            raise NotInstalledError(f"pip install {' '.join(self.requirements)}: {last[0]}") from None
        except subprocess.TimeoutExpired:
            raise NotInstalledError(f"pip took more than {INSTALL_WITHIN_S} s") from None

    def _versions(self) -> dict[str, str]:
        script = (
            "import json, sys, importlib.metadata as m, platform\n"
            "found = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}\n"
            "found['python'] = platform.python_version()\n"
            "print(json.dumps({name: found[name] for name in sys.argv[1:] if name in found}))"
        )
        answer = subprocess.run(
            [str(self.python), "-c", script, *self.reported, "python"],
            capture_output=True,
            text=True,
            check=True,
            timeout=LOOKED_UP_WITHIN_S,
        )
        versions: dict[str, str] = json.loads(answer.stdout)
        if missing := [name for name in self.reported if name not in versions]:
            raise NotInstalledError(f"{', '.join(missing)}: not installed beside Salver (dependency group `bench`)")
        return versions
