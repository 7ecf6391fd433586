"""The commands by name, in groups; each is imported when it is used, since each needs something else."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

Sections = Mapping[str, Mapping[str, str]]
"""By title: the commands, each with the module that has it, as an attribute of the same name."""


class Commands(click.Group):
    """A group whose commands are imported one at a time.

    Args:
        sections: the commands, as ``--help`` shows them.
    """

    def __init__(self, *, sections: Sections, **attributes: Any) -> None:
        super().__init__(**attributes)
        self._sections = sections
        self._places = {name: place for section in sections.values() for name, place in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = self._places.get(cmd_name)
        if place is None:
            return None
        found = getattr(import_module(place), cmd_name.replace("-", "_"))
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self._places and not name.startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches  # only who mistypes needs it

            near = get_close_matches(name, self._places, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise click.UsageError(f"No such command '{name}'.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self._places))
        for title, section in self._sections.items():
            with formatter.section(title):
                rows = [
                    (name.ljust(width), self._summary(ctx, name, formatter.width - width - 6)) for name in section
                ]
                formatter.write_dl(rows)

    def _summary(self, ctx: click.Context, name: str, limit: int) -> str:
        command = self.get_command(ctx, name)
        assert command is not None
        return command.get_short_help_str(limit)
