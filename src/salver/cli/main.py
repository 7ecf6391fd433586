"""``salver``, and ``serve`` with the same commands."""

from __future__ import annotations

import sys

import click

from salver import __version__
from salver.cli.output import fail
from salver.cli.run import run
from salver.cli.shutdown import shutdown
from salver.cli.status import status
from salver.errors import ServeException, StartupError

_EXAMPLES = """\b
Examples:
  salver run app:app                       run an application, Ctrl-C ends it
  salver run app:app --port 9000           on another port
  salver run app:build model=t5-small      call the builder function build
  salver status                            what runs
  salver shutdown                          end it from elsewhere

Serves Python models: Ray Serve's programming model on a small, fast engine."""


@click.group(help=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="salver")
def cli() -> None:
    pass


cli.add_command(run)
cli.add_command(status)
cli.add_command(shutdown)


def main() -> None:
    """Entry point. Exit codes: 0 fine, 1 failed, 2 usage, 3 Salver could not start, 130 ended by Ctrl-C."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except StartupError as error:
        fail(str(error), 3)
    except (ServeException, LookupError) as error:
        fail(str(error), 1)
