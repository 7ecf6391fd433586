"""``salver config``: what config files have declared, and what they may say."""

from __future__ import annotations

import click

from salver.cli.instance_option import control_of, control_options
from salver.cli.output import fail, say


@click.command()
@click.option("-n", "--name", metavar="APP", help="Only this application.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of config files, for editors.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one application a line.")
@control_options
def config(name: str | None, schema: bool, as_json: bool, instance: str | None) -> None:
    """\b
    Print the configuration of the applications that run, as YAML.

    \b
    Examples:
      salver config
      salver config --name default
      salver config --schema > serve.schema.json

    Only applications that came from a config file have one.
    """
    if schema:
        _print_schema()
        return
    import msgspec

    views = sorted(control_of(instance).status().applications, key=lambda view: view.name)
    applications = {view.name: view.config for view in views}
    if name is not None and name not in applications:
        fail(f"There is no application '{name}'.", 1)
    chosen = [each for key, each in applications.items() if each is not None and name in {None, key}]
    if not chosen:
        say(
            "No config has been deployed."
            if name is None
            else f'No config has been deployed for application "{name}".'
        )
    if as_json:
        for each in chosen:
            click.echo(msgspec.json.encode(each).decode())
        return
    from yaml import safe_dump

    click.echo("\n---\n\n".join(safe_dump(each, sort_keys=False) for each in chosen), nl=False)


def _print_schema() -> None:
    import json

    from salver.serve.declared.config_schema import config_json_schema

    click.echo(json.dumps(config_json_schema(), indent=2))
