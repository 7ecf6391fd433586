"""``APP`` and ``APP/DEPLOYMENT`` as arguments: pairs of names."""

from __future__ import annotations

import click


def deployment_path(value: str) -> tuple[str, str]:
    """``APP/DEPLOYMENT``. Raises ``click.BadParameter``."""
    app, _, deployment = value.partition("/")
    if not app or not deployment or "/" in deployment:
        raise click.BadParameter(f"{value!r} must be of the form APP/DEPLOYMENT, like 'default/Translator'.")
    return app, deployment


def application_or_deployment(value: str) -> tuple[str, str]:
    """The same, or ``APP``, or nothing at all: what is not named is empty. Raises ``click.BadParameter``."""
    return deployment_path(value) if "/" in value else (value, "")
