"""What a child of the command line does: deploy the user's application, say when it runs."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from salver.cli.awaited import Awaited
from salver.cli.loading import load_application, look_in
from salver.cli.output import fail, say
from salver.cli.progress import progress_on_stderr
from salver.cli.requests import BuildRequest
from salver.cli.waiting import wait_until_running, watch_until_running
from salver.controller.client import ControlClient, ControlRefused, ControlUnreachable
from salver.engine.local.instance import Instance
from salver.errors import ConfigurationError, SerializationError, ServeException, StartupError
from salver.records import ApplicationSpec
from salver.serve.building.application_settings import ApplicationSettings
from salver.serve.building.graph import build_application, check_app_name, check_route_prefix

_SERVES_WITHIN_S = 30.0
_LOOK_EVERY_S = 0.02


def build_and_deploy(request: BuildRequest, instance: Instance) -> float:
    """Do it, without waiting for it to run; its ``last_deployed_time_s``. Exits with 1 or 2 and a sentence."""
    spec = _build(request)
    try:
        return ControlClient(instance.control_socket).deploy(spec)
    except ControlRefused as error:
        fail(str(error), 1)


def where_it_answers(request: BuildRequest, instance: Instance) -> str:
    """The application's URL, in words if it has none."""
    prefix = _prefix(request)
    url = instance.info().url.rstrip("/")
    return f"{url}{prefix}" if prefix is not None else "for handles only, without a route"


def _prefix(request: BuildRequest) -> str | None:
    return None if request.route_prefix in {"", "none", "None"} else request.route_prefix


def _build(request: BuildRequest) -> ApplicationSpec:
    prefix = _prefix(request)
    try:
        check_app_name(request.name)
        check_route_prefix(prefix)
    except ConfigurationError as error:
        fail(str(error), 2)
    base = look_in(request.app_dir)
    application, code = load_application(request, base)
    settings = ApplicationSettings(runtime_env=request.runtime_env, base=base, progress=say)
    try:
        return build_application(application, name=request.name, route_prefix=prefix, code=code, settings=settings)
    except (ConfigurationError, SerializationError, RuntimeError) as error:
        fail(str(error), 1)


def wait_or_fail(instance: Instance, names: Sequence[str]) -> None:
    """Wait until they run. Exits with 1 or 3 and the message of the one that failed."""
    with _failing():
        wait_until_running(ControlClient(instance.control_socket), names)


def watch_or_fail(control: ControlClient, awaited: Awaited) -> None:
    """The same for one deploy, with all news of it on stderr; it has also failed when a later one has replaced it."""
    with _failing():
        watch_until_running(control, awaited, progress_on_stderr())


@contextmanager
def _failing() -> Generator[None]:
    try:
        yield
    except StartupError as error:
        fail(str(error), 3)
    except (RuntimeError, ServeException) as error:
        fail(str(error), 1)


def wait_until_it_serves(instance: Instance) -> None:
    """Wait for the controller and a proxy. Exits with 3 when they do not come."""
    control = ControlClient(instance.control_socket)
    deadline = time.monotonic() + _SERVES_WITHIN_S
    while time.monotonic() < deadline and instance.is_running():
        try:
            if control.status().proxy_pids:
                return
        except ControlUnreachable:
            pass
        time.sleep(_LOOK_EVERY_S)
    fail(f"the instance does not serve after {_SERVES_WITHIN_S:.0f} s", 3)


def say_ready(where: str, instance: Instance, since: float) -> None:
    """The ``Ready`` line, with the seconds since ``since`` (CLOCK_BOOTTIME), and the table of deployments."""
    from salver.cli.status_table import console, deployments_table

    say(f"Ready in {time.clock_gettime(time.CLOCK_BOOTTIME) - since:.2f} s · {where}")
    views = ControlClient(instance.control_socket).status().applications
    if views:
        terminal = console(err=True)
        with terminal.capture() as table:
            terminal.print(deployments_table(views))
        say(table.get().removesuffix("\n"))


def beginning_of(pid: int) -> float:
    """When a process began (CLOCK_BOOTTIME). Not psutil's: it adds to the boot time in whole seconds."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
        ticks = int(stat.read().rpartition(")")[2].split()[19])
    return ticks / os.sysconf("SC_CLK_TCK")
