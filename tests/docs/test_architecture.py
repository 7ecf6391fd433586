"""The module map in docs/architecture.md names every module, and only modules."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src" / "salver"
_ROW = re.compile(r"^\| ((?:`[\w/.]+`(?:, )?)+) \|", re.MULTILINE)
_TITLE = re.compile(r"^\| ((?:`[\w/]+/`(?:, )?)+) \| \|$", re.MULTILINE)


def mapped_modules() -> set[str]:
    text = (ROOT / "docs" / "architecture.md").read_text()
    titles = list(_TITLE.finditer(text))
    found: set[str] = set()
    for position, title in enumerate(titles):
        end = text.find("\n\n", title.end())
        if position + 1 < len(titles):
            end = min(end, titles[position + 1].start())
        layers = re.findall(r"`([\w/]+)/`", title[1])
        for row in _ROW.finditer(text, title.end(), end):
            for name in re.findall(r"`([\w/]+)`", row[1]):
                found.add(name if len(layers) > 1 else f"{layers[0]}/{name}")
    return found


def test_the_module_map_is_complete_and_true() -> None:
    modules = {
        str(path.relative_to(SOURCES).with_suffix(""))
        for path in SOURCES.rglob("*.py")
        if path.name != "__init__.py" and path.parent != SOURCES
    }
    assert mapped_modules() == modules


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("README.md")]
    assert len(documents) > 8
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text())
        if not target.startswith(("http:", "https:", "mailto:")) and not (document.parent / target).exists()
    ]
    assert broken == []
