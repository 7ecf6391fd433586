"""``salver run``: import an application, run it, follow it, end it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import click
import psutil

from salver.cli.output import fail, show_status
from salver.compat import ray as ray_alias
from salver.errors import ConfigurationError, SerializationError
from salver.serve import api
from salver.serve.builder import build_from_target, parse_app_args
from salver.serve.deployment import Application
from salver.serve.import_path import ImportPathError, import_target, user_traceback
from salver.serve.session import Session, close_session, join_session, launch_session


@click.command(context_settings={"show_default": True})
@click.argument("import_path")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("-d", "--app-dir", default=".", help="Folder to import from.")
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", default=8000, type=click.IntRange(0, 65535), help="Port to listen on; 0 for any.")
@click.option("--name", default="default", help="Name of the application.")
@click.option("--route-prefix", default="/", help="Path prefix of its requests.")
@click.option("--proxies", default=1, type=click.IntRange(1, 64), help="Processes that share the port.")
@click.option("--blocking/--non-blocking", default=True, help="Stay and follow, or return when it runs.")
@click.option("--instance", metavar="NAME", help="Run it in this running instance instead of a new one.")
@click.option("--compat", is_flag=True, help="Let `import ray` mean Salver even if Ray is installed.")
def run(
    import_path: str,
    arguments: tuple[str, ...],
    app_dir: str,
    host: str,
    port: int,
    name: str,
    route_prefix: str,
    proxies: int,
    blocking: bool,
    instance: str | None,
    compat: bool,
) -> None:
    """\b
    Run the application at IMPORT_PATH (module:attribute).

    \b
    Examples:
      salver run app:app
      salver run app:build size=small        arguments of a builder function
      salver run app:app --instance 8000 --name second --route-prefix /second
    """
    started_at = psutil.Process().create_time()
    sys.path.insert(0, os.path.abspath(app_dir))
    args = _parse_args(arguments)
    session = _session(instance, host, port, proxies, detached=not blocking)
    succeeded = False
    try:
        with until_signal() as interrupted:
            _deploy(_load_application(import_path, args, compat=compat), name, route_prefix)
            seconds = time.time() - started_at
            click.echo(
                f"Ready in {seconds:.2f} s · {session.instance.info().url.rstrip('/')}{route_prefix}",
                err=True,
            )
            show_status(api.status(), err=True)
            succeeded = True
            if blocking:
                _follow(session, interrupted)
    except KeyboardInterrupt:
        click.echo("Stopping; Ctrl-C again to stop at once.", err=True)
    finally:
        if blocking or not succeeded:
            _end(session, name)


def _parse_args(arguments: tuple[str, ...]) -> dict[str, str]:
    try:
        return parse_app_args(arguments)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _session(instance: str | None, host: str, port: int, proxies: int, *, detached: bool) -> Session:
    if instance is not None:
        return join_session(instance)
    return launch_session(host=host, port=port, proxies=proxies, detached=detached)


def _load_application(import_path: str, args: dict[str, str], *, compat: bool) -> Application:
    """Import and build; errors of the user's module are shown as the user's."""
    if compat or not ray_alias.ray_is_installed():
        why = "--compat" if compat else "Ray is not installed"
        ray_alias.install(lambda: click.echo(f"`import ray` means Salver here ({why}).", err=True))
    try:
        return build_from_target(import_target(import_path), args)
    except (ImportPathError, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001 - anything the user's module raises, SystemExit included
        text = user_traceback(error)
        click.echo(text, err=True)
        fail(f"{import_path} could not be loaded: {type(error).__name__}.", 1)


def _deploy(application: Application, name: str, route_prefix: str) -> None:
    prefix = None if route_prefix in {"", "none", "None"} else route_prefix
    try:
        api.run(application, name=name, route_prefix=prefix)
    except (ConfigurationError, SerializationError) as error:
        fail(str(error), 1)
    except RuntimeError as error:
        fail(str(error), 1)


def _follow(session: Session, interrupted: Callable[[], bool]) -> None:
    """Stay until Ctrl-C, SIGTERM or the end of the instance. Its processes write to this terminal themselves."""
    while not interrupted():
        if session.launched is not None:
            if session.launched.wait(0.5):
                fail("Salver's processes have ended unexpectedly; see the messages above.", 1)
        elif not session.instance.is_running():
            click.echo("The instance has ended.", err=True)
            return
        else:
            time.sleep(0.5)


def _end(session: Session, name: str) -> None:
    """End what this command started: the instance, or the application in an instance that it joined."""
    try:
        with until_signal():
            if session.launched is None and session.instance.is_running():
                api.delete(name)
            close_session()
    except KeyboardInterrupt:
        if session.launched is not None:
            session.launched.kill()
        sys.exit(130)


@contextmanager
def until_signal() -> Generator[Callable[[], bool], None, None]:
    """SIGTERM does what Ctrl-C does: it raises KeyboardInterrupt in the main thread."""
    received = False

    def terminate(*_: object) -> None:
        nonlocal received
        received = True
        raise KeyboardInterrupt

    before = {number: signal.signal(number, terminate) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
