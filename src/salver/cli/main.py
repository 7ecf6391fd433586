"""``salver``, and ``serve`` with the same commands."""

from __future__ import annotations

import sys

import click

from salver import __version__
from salver.cli.commands import Commands
from salver.cli.output import fail
from salver.engine.local.standard_streams import open_standard_streams
from salver.errors import ServeException, StartupError

_HELP = """\b
Examples:
  salver run app:app                       run an application, Ctrl-C ends it
  salver run serve.yaml                    run the applications of a config file
  salver run app:build model=t5-small      call the builder function build
  salver start                             an instance first,
  salver deploy serve.yaml                 and applications later
  salver status                            what runs
  salver shutdown                          end it from elsewhere

Serves Python models: Ray Serve's programming model on a small, fast engine."""

_EPILOG = """\b
Exit codes: 0 fine, 1 failed, 2 wrong usage or config, 3 Salver could not start, 130 ended by Ctrl-C.
Completion for your shell: eval "$(_SALVER_COMPLETE=bash_source salver)", or zsh_source, fish_source.
"""

_SECTIONS = {
    "Run": {
        "run": "salver.cli.run",
        "start": "salver.cli.start",
        "deploy": "salver.cli.deploy",
        "build": "salver.cli.build",
    },
    "Look": {
        "status": "salver.cli.status",
        "logs": "salver.cli.logs",
        "events": "salver.cli.events",
        "controller-health": "salver.cli.controller_health",
        "config": "salver.cli.config",
    },
    "Change": {
        "scale": "salver.cli.scale",
        "rollback": "salver.cli.rollback",
        "delete": "salver.cli.delete",
        "token": "salver.cli.token",
        "shutdown": "salver.cli.shutdown",
    },
    "Measure": {
        "bench": "salver.cli.bench",
    },
}

cli = click.version_option(__version__, prog_name="salver")(
    Commands(
        name="salver",
        help=_HELP,
        epilog=_EPILOG,
        sections=_SECTIONS,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
)


def main() -> None:
    """Entry point. Exit codes: 0 fine, 1 failed, 2 usage, 3 Salver could not start, 130 ended by Ctrl-C."""
    open_standard_streams()
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except StartupError as error:
        fail(str(error), 3)
    except (ServeException, LookupError) as error:
        fail(str(error), 1)
