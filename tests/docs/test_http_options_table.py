"""The table of HTTPOptions in docs/options.md names every option, its default, what it allows, and its flag."""

from __future__ import annotations

from pathlib import Path

import pytest

from salver.cli.run import run
from salver.serve.config import HTTPOptions
from salver.serve.validation import Allowed

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "options.md"


def rows() -> dict[str, list[str]]:
    _, _, rest = DOCUMENT.read_text().partition("## HTTPOptions")
    table, _, _ = rest.partition("\n## ")
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:3] == "| `"
    ]
    return {row[0].strip("`"): row for row in cells}


@pytest.mark.parametrize("name", HTTPOptions.model_fields)
def test_every_option_is_documented(name: str) -> None:
    _, _, default, allowed, effect, meaning = rows()[name]
    field = HTTPOptions.model_fields[name]
    phrases = [part.phrase for part in field.metadata if isinstance(part, Allowed)]
    value = field.get_default(call_default_factory=True)
    assert default == f"`{value!r}`".replace("'", '"')
    assert allowed in phrases or name == "middlewares"
    assert effect in {"now", "never"}
    assert meaning


def test_every_flag_is_documented() -> None:
    ingress = {
        option
        for parameter in run.params
        for option in parameter.opts
        if getattr(parameter, "section", "") in {"HTTP", "TLS", "Limits"}
    }
    beside = {"--proxies", "--http-host", "--http-port"}  # no option of the table; other names of two of them
    assert ingress - beside == {row[1].strip("`") for row in rows().values() if row[1]}
    assert all(f"`{flag}`" in DOCUMENT.read_text() for flag in beside)
