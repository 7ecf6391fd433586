"""A replica runs the code that its application was built from, whatever is on disk by now.

Classes of importable modules travel by name, so a replica that starts later, to scale up, after a crash or for a
rollback, would import what the file holds then: another version under the same name, or half of an edit. So the
application carries the sources of the user's modules, and they are imported from there. ``__file__`` is the file's
path, as ever, and tracebacks show the lines that run. Modules that could not be known when the application was built
(``serve.building.user_modules`` says which can) come from disk.
"""

from __future__ import annotations

import linecache
import sys
import zlib
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from types import CodeType, ModuleType

import msgspec
from msgspec import Struct


class Source(Struct, frozen=True, array_like=True):
    """One module: its name, its file's path, and what is in that."""

    name: str
    path: str
    text: bytes


_decoder = msgspec.msgpack.Decoder(list[Source])


def pack_sources(sources: Iterable[Source]) -> bytes:
    """As ``CodeContext.sources`` has them: equal for equal sources."""
    return zlib.compress(msgspec.msgpack.encode(sorted(sources, key=lambda source: source.name)))


def import_from(packed: bytes) -> None:
    """Import these modules from what was packed, from now on, in this process."""
    if packed:
        sys.meta_path.insert(0, _Finder(_decoder.decode(zlib.decompress(packed))))


class _Finder(MetaPathFinder):
    def __init__(self, sources: Iterable[Source]) -> None:
        self._by_name = {source.name: source for source in sources}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        source = self._by_name.get(fullname)
        if source is None:
            return None
        folder, _, file = source.path.rpartition("/")
        places = [folder] if file == "__init__.py" else None
        loader = _Loader(source)
        return spec_from_file_location(fullname, source.path, loader=loader, submodule_search_locations=places)


class _Loader(SourceFileLoader):
    """Compiles what was packed; never byte code from a cache, which belongs to what is on disk."""

    def __init__(self, source: Source) -> None:
        super().__init__(source.name, source.path)
        self._text = source.text

    def get_code(self, fullname: str) -> CodeType:
        lines = self.get_source(fullname).splitlines(keepends=True)
        linecache.cache[self.path] = (len(self._text), None, lines, self.path)
        return self.source_to_code(self._text, self.path)

    def get_source(self, fullname: str) -> str:
        from importlib.util import decode_source

        return decode_source(self._text)
