"""The sources of the user's modules, for replicas to import from (``engine.local.source_finder``)."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec

from salver.engine.local.source_finder import Source, pack_sources
from salver.records import CodeContext
from salver.serve.building.contents import files_below
from salver.serve.building.fingerprint import folders_of_its_own, user_sources

logger = logging.getLogger("salver.serve")

MOST_BYTES = 16 * 1024 * 1024
"""Of all sources together; with more, replicas import what is on disk."""


def with_sources(code: CodeContext) -> CodeContext:
    """``code`` with the sources of the user's modules that are loaded here, or that lie in folders of its own."""
    paths = {name: path for name, path in user_sources(code.cwd) if name not in {"__main__", "__mp_main__"}}
    for folder in folders_of_its_own(code):
        for file in files_below(folder, ".py"):
            paths.setdefault(_module_name(file), os.path.join(folder, file))
    sources: list[Source] = []
    size = 0
    for name, path in paths.items():
        try:
            text = Path(path).read_bytes()
        except OSError:
            continue
        size += len(text)
        sources.append(Source(name, path, text))
    if size > MOST_BYTES:
        logger.warning(
            "the sources of this application are too large to travel with it (%d MiB): a replica that starts later "
            "runs what is on disk then",
            size // 2**20,
        )
        return code
    return msgspec.structs.replace(code, sources=pack_sources(sources))


def _module_name(file: str) -> str:
    """``pkg/mod.py`` is ``pkg.mod``, ``pkg/__init__.py`` is ``pkg``."""
    name = file.removesuffix(".py").replace("/", ".")
    return name.removesuffix(".__init__")
