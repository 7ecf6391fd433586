"""The sources of the user's modules, for replicas to import from (``engine.local.source_finder``)."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from salver.engine.local.source_finder import Source, pack_sources
from salver.records import CodeContext
from salver.serve.building.user_modules import user_modules

logger = logging.getLogger("salver.serve")

_NOT_IMPORTED = {"__main__", "__mp_main__"}

MOST_BYTES = 16 * 1024 * 1024
"""Of all sources together; with more, replicas import what is on disk."""


def with_sources(code: CodeContext, base: CodeContext | None = None) -> CodeContext:
    """``code`` with the sources of the user's modules, as ``user_modules`` finds them."""
    paths = {name: path for name, path in user_modules(code, base).items() if name not in _NOT_IMPORTED}
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
