"""``pip``: packages, installed once per list of requirements, beside those that this process has.

Installed is into a virtual environment of which replicas only use the ``site-packages``. While pip runs it sees the
packages of this process too, so it installs what they lack, and not a second torch. Then it is out of the way: a
replica finds the environment's packages before those of this process, so a version that it asks for wins.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import Any, cast

from msgspec import Struct

from salver.serve.building.contents import INSTALLED_FOLDERS, hash_of_file, hash_of_folder
from salver.serve.runtime_env.cache import MADE_WITHIN_S, NotPreparedError, made_once
from salver.serve.validation import OptionsError, Problem

_PLACE = ("runtime_env", "pip")
_FORMAT = b"1"  # of the folders that we make: another number leaves the old ones unused
_TOLD = ("Collecting ", "Processing ", "Downloading ", "Building ", "Installing ", "Successfully ")
_LINES_SHOWN = 20
_RETRIES = "WARNING: Retrying "
_ERROR = "ERROR: "
_LEFT_BY_BUILDS = re.compile(r"(build|dist)/|(.*/)?[^/]+\.egg-info/")
_REFERS = re.compile(r"(-r|-c|--requirement|--constraint)(\s*=?\s*)(\S+)")


class _Wanted(Struct, frozen=True):
    """What to install.

    Attributes:
        lines: of a requirements file.
        options: of ``pip install``.
        check: whether ``pip check`` must be content afterwards.
    """

    lines: tuple[str, ...]
    options: tuple[str, ...] = ()
    check: bool = False


def installed_packages(pip: object, cwd: str, variables: Mapping[str, str], progress: Callable[[str], None]) -> str:
    """The ``site-packages`` with what ``pip`` (a checked value of ``runtime_env``) asks for.

    Args:
        cwd: where relative paths begin.
        variables: of pip's own environment, beside those of this process.

    Raises:
        OptionsError: there is no such requirements file.
        NotPreparedError: pip failed; the message holds its last lines.
    """
    wanted = _wanted(pip, cwd)
    environment = {**os.environ, **variables, "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    for name in ("PYTHONPATH", "PYTHONHOME"):  # what is there is no package of ours
        environment.pop(name, None)
    folder = made_once(
        "pip", _digest(wanted, cwd), lambda new: _install(wanted, new, cwd, environment, progress), progress
    )
    return str(_site_packages(folder))


# --- what is wanted -------------------------------------------------------------------------------------


def _wanted(pip: object, cwd: str) -> _Wanted:
    if not isinstance(pip, dict):
        return _Wanted(_lines(pip, cwd))
    given = cast("dict[str, Any]", pip)
    options = tuple(given.get("pip_install_options", ()))
    return _Wanted(_lines(given["packages"], cwd), options, bool(given.get("pip_check")))


def _lines(packages: object, cwd: str) -> tuple[str, ...]:
    """The requirements, with the files that they refer to by their whole path, as they will lie elsewhere."""
    if not isinstance(packages, str):
        return tuple(_with_whole_path(line.strip(), cwd) for line in cast("list[str]", packages))
    path = Path(cwd, packages).resolve()
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        rule = f"={packages!r}: the requirements file cannot be read: {error}"
        raise OptionsError([Problem(_PLACE, rule)]) from None
    return tuple(_with_whole_path(line, str(path.parent)) for line in text.splitlines())


def _with_whole_path(line: str, folder: str) -> str:
    found = _REFERS.match(line)
    return f"{found[1]} {Path(folder, found[3]).resolve()}" if found and "://" not in found[3] else line


def _digest(wanted: _Wanted, cwd: str) -> str:
    """Names the environment: the requirements, the local files among them, and the Python that they are for."""
    digest = hashlib.sha256(_FORMAT)
    for part in (sys.version, sys.prefix, *_packages_of_this_process(), *wanted.options, str(wanted.check)):
        digest.update(f"{part}\0".encode())
    for line in wanted.lines:
        digest.update(f"{line}\0".encode())
        for path in _local_paths(line, cwd):
            digest.update(hash_of_folder(path, _LEFT_BY_BUILDS) if path.is_dir() else hash_of_file(path))
    return digest.hexdigest()[:24]


def _local_paths(line: str, cwd: str) -> Iterable[Path]:
    """Files and folders that a requirement names: ``./wheel.whl``, ``./project[extra]``, ``name @ file:///…``."""
    for word in line.split("#")[0].split():
        path = Path(cwd, word.removeprefix("file://").partition("[")[0])
        if path.exists():
            yield path


# --- installing -----------------------------------------------------------------------------------------


def _install(
    wanted: _Wanted, folder: Path, cwd: str, environment: dict[str, str], progress: Callable[[str], None]
) -> None:
    import venv

    progress(f"pip: making {folder.with_suffix('')}, once for these requirements")
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    python = str(folder / "bin" / "python")
    visible = _site_packages(folder) / "_salver_visible.pth"
    visible.write_text("\n".join(_packages_of_this_process()) + "\n")
    if find_spec("pip") is None:
        _run([python, "-m", "ensurepip"], cwd, environment, progress)
    requirements = folder / "requirements.txt"
    requirements.write_text("\n".join(wanted.lines) + "\n")
    _run([python, "-m", "pip", "install", *wanted.options, "-r", str(requirements)], cwd, environment, progress)
    if wanted.check:
        _run([python, "-m", "pip", "check"], cwd, environment, progress)
    visible.unlink()


def _run(command: list[str], cwd: str, environment: dict[str, str], progress: Callable[[str], None]) -> None:
    """Run it to its end, tell its milestones. Raises NotPreparedError with its last lines when it fails."""
    last: deque[str] = deque(maxlen=_LINES_SHOWN)
    with subprocess.Popen(  # noqa: S603 - the user's requirements, which are the user's code
        command,
        cwd=cwd or None,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        limit = Timer(MADE_WITHIN_S, process.kill)
        limit.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(_RETRIES) and last and last[-1].startswith(_RETRIES):
                    last.pop()  # one of them says enough
                last.append(line.rstrip())
                if line.lstrip().startswith(_TOLD):
                    progress(f"pip: {line.strip()}")
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            limit.cancel()
            limit.join()
    if code:
        what = " ".join(command[1:4])
        rule = "\n".join((f": {_reason(last)}`python {what}` failed with {code}:", *last))
        raise NotPreparedError([Problem(_PLACE, rule)])


def _reason(lines: Collection[str]) -> str:
    """In one sentence, for places that show one line: what pip says last, and whether it found an index to ask."""
    errors = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    if not errors:
        return ""
    unreachable = any(line.startswith(_RETRIES) for line in lines)
    return f"{errors[-1]} (a package index could not be reached). " if unreachable else f"{errors[-1]}. "


# --- where packages are ---------------------------------------------------------------------------------


def _site_packages(folder: Path) -> Path:
    base = str(folder)
    return Path(sysconfig.get_path("purelib", "venv", {"base": base, "platbase": base}))


def _packages_of_this_process() -> list[str]:
    return [entry for entry in sys.path if os.path.basename(entry) in INSTALLED_FOLDERS]
