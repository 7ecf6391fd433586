"""``salver build``: a config file from code."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import click

from salver.cli.children import in_child
from salver.cli.flags_of_ray import grpc_flags
from salver.cli.output import fail
from salver.cli.sections import SectionedCommand


@click.command(cls=SectionedCommand)
@click.argument("import_paths", metavar="IMPORT_PATH...", nargs=-1, required=True)
@click.option("-d", "--app-dir", default=".", type=click.Path(exists=True, file_okay=False), help="Where they are.")
@click.option("-o", "--output-path", metavar="FILE", type=click.Path(dir_okay=False), help="Write it there.")
@click.option("--compat", is_flag=True, help="Let `import ray` mean Salver even if Ray is installed.")
@grpc_flags
def build(import_paths: tuple[str, ...], app_dir: str, output_path: str | None, compat: bool) -> None:
    """\b
    Write a config file for applications: their deployments, with the options that their code sets.

    \b
    Examples:
      salver build app:app > serve.yaml
      salver build translate:app summarize:app -o serve.yaml

    Several applications get the routes /app1, /app2 and so on.
    """
    main = partial(_print_config, import_paths, app_dir, output_path, compat=compat)
    sys.exit(in_child("salver: build", main, close=[]))


def _print_config(import_paths: tuple[str, ...], app_dir: str, output_path: str | None, *, compat: bool) -> None:
    from salver.cli.loading import load_application, look_in
    from salver.cli.requests import BuildRequest
    from salver.serve.declared.config_writer import config_of

    base = look_in(app_dir)
    requests = [BuildRequest(path, (), app_dir, "", "/", compat) for path in import_paths]
    text = config_of([(request.import_path, load_application(request, base)[0]) for request in requests])
    if output_path is None:
        click.echo(text, nl=False)
    else:
        try:
            Path(output_path).write_text(text, encoding="utf-8")
        except OSError as error:
            fail(f"{output_path} cannot be written: {error.strerror}", 1)
