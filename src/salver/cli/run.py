"""``salver run``: start an instance, have a child build and deploy the application, follow it, end it.

This process stays for as long as the application runs, so it stays small: the user's modules, and ours for building,
are imported in a child that ends when the application runs. With transformers that is several hundred megabytes.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from importlib import import_module

import click

from salver.cli.build_request import BuildRequest
from salver.cli.ingress_flags import IngressFlags, ingress_flags
from salver.cli.output import fail
from salver.cli.sections import SectionedCommand, SectionedOption
from salver.engine.local.instance import Instance, find_instance
from salver.engine.local.launcher import LaunchedInstance, launch
from salver.engine.local.process import become_subreaper, end_children, fork, kill_group

_DELETE_WITHIN_S = 60.0


@click.command(cls=SectionedCommand, context_settings={"show_default": True})
@click.argument("import_path")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "-d",
    "--app-dir",
    cls=SectionedOption,
    section="Application",
    default=".",
    type=click.Path(exists=True, file_okay=False),
    help="Folder to import from.",
)
@click.option("--name", cls=SectionedOption, section="Application", default="default", help="Its name.")
@click.option(
    "--route-prefix", cls=SectionedOption, section="Application", default="/", help="Path prefix of its requests."
)
@click.option(
    "--compat",
    cls=SectionedOption,
    section="Application",
    is_flag=True,
    help="Let `import ray` mean Salver even if Ray is installed.",
)
@ingress_flags
@click.option("--blocking/--non-blocking", default=True, help="Stay and follow, or return when it runs.")
@click.option("--instance", metavar="NAME", help="Run it in this running instance instead of a new one.")
def run(
    import_path: str,
    arguments: tuple[str, ...],
    app_dir: str,
    name: str,
    route_prefix: str,
    ingress: IngressFlags,
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
      salver run app:app --host 0.0.0.0 --ssl-certfile cert.pem --ssl-keyfile key.pem
    """
    launched = None if instance else _launch(ingress, detached=not blocking)
    joined = launched.instance if launched else find_instance(instance)
    request = BuildRequest(import_path, arguments, app_dir, name, route_prefix, compat)
    if launched is not None:
        become_subreaper()  # the supervisor is one; if it dies, its orphans come to us to be ended
    with interrupted_by_signals():
        began_at = time.time()
        try:
            try:
                _build_in_child(request, joined, launched)
                if blocking or not joined.is_running():
                    _follow(joined, launched)
            except KeyboardInterrupt:
                click.echo("Stopping; Ctrl-C again to stop at once.", err=True)
                _end(joined, launched, name, began_at)
            except BaseException:
                _end(joined, launched)
                raise
        except KeyboardInterrupt:
            if launched is not None:
                launched.kill()
            sys.exit(130)


def _launch(ingress: IngressFlags, *, detached: bool) -> LaunchedInstance:
    return launch(
        host=ingress.host,
        port=ingress.port,
        proxies=ingress.proxies,
        detached=detached,
        options=ingress.options,
    )


def _build_in_child(request: BuildRequest, instance: Instance, launched: LaunchedInstance | None) -> None:
    """Fork a child that builds and deploys, and wait for it. Whatever it started ends with it."""
    parent = os.getpid()

    def build() -> None:
        import_module("salver.cli.build").build_and_deploy(request, instance, parent)

    inherited = [launched.lifeline] if launched is not None and launched.lifeline is not None else []
    pid = fork(f"salver: build {request.import_path}", build, close=inherited)
    try:
        _wait_for_first(pid, launched)
    finally:
        kill_group(pid)
        _, status = os.waitpid(pid, 0)
    if launched is not None and not launched.alive:
        return  # `_follow` says why
    code = os.waitstatus_to_exitcode(status)
    if code:
        sys.exit(code if code > 0 else 1)


def _wait_for_first(builder: int, launched: LaunchedInstance | None) -> None:
    """Wait for the end of the builder, or of the instance, which the builder would go on asking for a while."""
    pids = [builder] if launched is None else [builder, launched.pid]
    with ExitStack() as opened:
        ends = [os.pidfd_open(pid) for pid in pids]
        for end in ends:
            opened.callback(os.close, end)
        select.select(ends, [], [])


def _follow(instance: Instance, launched: LaunchedInstance | None) -> None:
    """Stay until Ctrl-C, SIGTERM or the end of the instance. Its processes write to this terminal themselves."""
    if launched is not None:
        launched.wait()
        if not launched.ended_as_asked:
            end_children()
            fail("Salver's processes have ended unexpectedly; see the messages above.", 1)
    while instance.is_running():
        time.sleep(0.5)
    click.echo("The instance has ended.", err=True)


def _end(instance: Instance, launched: LaunchedInstance | None, name: str | None = None, since: float = 0.0) -> None:
    """End what this command started: the instance, or in one that it joined the application ``name``.

    The application goes if it was deployed after ``since``: an interrupted build may not have come so far, and then
    the one of that name is another's.
    """
    if launched is not None:
        launched.stop()
    elif name is not None and instance.is_running():
        from salver.controller.client import ControlClient  # only here: this process stays, and stays small

        control = ControlClient(instance.control_socket)
        views = control.status().applications
        if any(view.name == name and view.last_deployed_time_s >= since for view in views):
            control.delete(name, _DELETE_WITHIN_S)


@contextmanager
def interrupted_by_signals() -> Generator[None, None, None]:
    """SIGTERM does what Ctrl-C does: it raises KeyboardInterrupt in the main thread."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
