"""From a ``runtime_env`` to where code is found and which variables are set."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec.structs import replace

from salver.records import CodeContext, JsonDict
from salver.serve.building.contents import INSTALLED_FOLDERS, hash_of_file
from salver.serve.runtime_env.cache import made_once
from salver.serve.runtime_env.fields import check_runtime_env
from salver.serve.validation import OptionsError, Problem

Progress = Callable[[str], None]


def resolve(runtime_env: JsonDict, base: CodeContext, progress: Progress) -> CodeContext:
    """What ``runtime_env`` makes of ``base``; may take minutes when packages are installed for the first time.

    Modules are looked for in ``working_dir``, in ``py_modules``, where PYTHONPATH of ``env_vars`` says, where
    ``base`` says, in the packages of ``pip``, and then in those that are installed. Relative paths begin at
    ``base.cwd``; ``excludes`` changes nothing, since nothing is copied.

    Args:
        runtime_env: as users write it; None as a value is the same as no key.
        progress: is told what takes long, in lines for people.

    Raises:
        ConfigurationError: a key that is not supported, a value that is wrong, a file that is not there, or packages
            that could not be installed.
    """
    try:
        check_runtime_env(runtime_env)
    except OptionsError as error:
        raise OptionsError([problem.below(("runtime_env",)) for problem in error.found]) from None
    given = {key: value for key, value in runtime_env.items() if value is not None}
    cwd = base.cwd or os.getcwd()
    env_vars: dict[str, str] = {**base.env_vars, **given.get("env_vars", {})}
    first: list[str] = []
    if "working_dir" in given:
        folder = _working_dir(given["working_dir"], cwd, progress)
        first.append(folder)
    if given.get("py_modules"):
        first += _py_modules(given["py_modules"], cwd, progress)
    entries = env_vars.get("PYTHONPATH", "").split(os.pathsep)
    first += [os.path.join(cwd, entry) for entry in entries if entry and "$" not in entry]
    packages: list[str] = []
    if given.get("pip"):
        from salver.serve.runtime_env.pip import installed_packages

        packages.append(installed_packages(given["pip"], cwd, env_vars, progress))
    return replace(
        base,
        cwd=first[0] if "working_dir" in given else base.cwd,
        sys_path=_sys_path(first, base.sys_path, packages),
        env_vars=dict(sorted(env_vars.items())),
    )


def _sys_path(first: list[str], base: Iterable[str], packages: list[str]) -> tuple[str, ...]:
    """As Python would have it: the user's folders, the standard library, then packages, those of ``pip`` first."""
    entries = list(dict.fromkeys([*first, *base]))
    installed = (n for n, entry in enumerate(entries) if os.path.basename(entry) in INSTALLED_FOLDERS)
    position = next(installed, len(entries))
    return (*entries[:position], *packages, *entries[position:])


# --- folders --------------------------------------------------------------------------------------------


def _working_dir(name: str, cwd: str, progress: Progress) -> str:
    path = Path(cwd, os.path.expanduser(name)).resolve()
    if path.is_dir():
        return str(path)
    if path.suffix == ".zip" and path.is_file():
        return _unpacked(path, ("working_dir",), progress)
    raise _wrong(("working_dir",), f"={name!r}: {_why_not(path, 'a folder or a .zip file')}")


def _py_modules(names: list[str], cwd: str, progress: Progress) -> list[str]:
    """Entries of ``sys.path``: unpacked wheels, and one folder in which the other modules are linked.

    A folder or file is a module itself. Its parent on ``sys.path`` would make modules of what lies beside it, too.
    """
    wheels: list[str] = []
    modules: dict[str, Path] = {}
    for number, name in enumerate(names):
        path = Path(cwd, os.path.expanduser(name)).resolve()
        if path.suffix == ".whl" and path.is_file():
            wheels.append(_unpacked(path, ("py_modules", number), progress))
        elif not path.is_dir() and not (path.suffix == ".py" and path.is_file()):
            allowed = "a folder, a .py file or a .whl file"
            raise _wrong(("py_modules", number), f"={name!r}: {_why_not(path, allowed)}")
        elif modules.setdefault(path.name, path) != path:
            raise _wrong(("py_modules", number), f": {path} and {modules[path.name]} have the same name")
    return [_linked(modules, progress), *wheels] if modules else wheels


def _linked(modules: dict[str, Path], progress: Progress) -> str:
    digest = hashlib.sha256(repr(sorted(modules.items())).encode(errors="surrogateescape")).hexdigest()[:24]

    def link(folder: Path) -> None:
        for name, path in modules.items():
            (folder / name).symlink_to(path)

    return str(made_once("modules", digest, link, progress))


def _unpacked(path: Path, at: tuple[int | str, ...], progress: Progress) -> str:
    """The folder with what is in an archive; a hash of the archive names it, so another content is another folder."""

    def unpack(folder: Path) -> None:
        from zipfile import BadZipFile, ZipFile  # few have archives

        progress(f"unpacking {path.name}")
        try:
            with ZipFile(path) as archive:
                archive.extractall(folder)
        except (BadZipFile, OSError) as error:
            raise _wrong(at, f": {path} cannot be unpacked: {error}") from None

    contents = hash_of_file(path).hex()[:24]
    if not contents:
        raise _wrong(at, f": {path} cannot be read")
    return str(made_once("archives", contents, unpack, progress))


def _wrong(at: tuple[int | str, ...], rule: str) -> OptionsError:
    return OptionsError([Problem(("runtime_env", *at), rule)])


def _why_not(path: Path, allowed: str) -> str:
    return f"{path} is not {allowed}" if path.exists() else f"there is no {path}"
