"""``--address``: what is said before a token leaves this machine."""

from __future__ import annotations

import click
import pytest

from harness.instance import new_runtime_folder
from salver.cli.instance_option import chosen_instance, control_options


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://192.0.2.7:8265", True),
        ("http://shop.example:8265", True),
        ("http://[2001:db8::7]:8265", True),
        ("https://shop.example", False),
        ("http://localhost:8265", False),
        ("http://127.0.0.2:8265", False),
        ("http://[::1]:8265", False),
    ],
)
def test_a_token_that_would_cross_a_network_in_clear_text_is_told_once(
    url: str, warned: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(new_runtime_folder()))
    monkeypatch.setenv("SALVER_TOKEN", "secret")

    @click.command()
    @control_options
    def command(instance: str | None) -> None:
        for _ in range(2):
            chosen_instance(instance)

    command(["--address", url], standalone_mode=False)
    told = capsys.readouterr().err
    assert told.count("Warning: ") == warned
    assert "secret" not in told
    assert ("https://" in told and "ssh -N -L" in told) == warned
