"""``CONFIG_OR_IMPORT_PATH``: which of the two an argument is."""

from __future__ import annotations

from pathlib import Path

import click

_SUFFIXES = {".yaml", ".yml", ".json"}


def is_config_file(config_or_import_path: str) -> bool:
    """Whether it is a config file, which is one that exists; what else there is, is an import path.

    Raises:
        click.UsageError: it is meant as a file, and there is none.
    """
    path = Path(config_or_import_path)
    if path.is_file():
        return True
    if ":" in config_or_import_path or not ("/" in config_or_import_path or path.suffix.lower() in _SUFFIXES):
        return False
    if path.is_dir():
        raise click.UsageError(f"{config_or_import_path!r} is a folder, not a config file.")
    raise click.UsageError(f"There is no file {config_or_import_path!r}.{_hint(path)}")


def _hint(path: Path) -> str:
    """The file beside it that has the most similar name."""
    from difflib import get_close_matches  # only who mistypes needs it

    try:
        names = [each.name for each in path.parent.iterdir() if each.suffix.lower() in _SUFFIXES and each.is_file()]
    except OSError:
        return f" There is no folder '{path.parent}'."
    near = get_close_matches(path.name, names, n=1)
    return f" Did you mean '{path.with_name(near[0])}'?" if near else ""
