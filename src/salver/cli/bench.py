"""``salver bench``: load on a URL, and what its users would feel."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from salver.bench.objective import Objective
from salver.bench.request import Request, RequestError, make_request
from salver.cli.bench_options import duration, header, objective, pause, rates
from salver.cli.output import fail, say
from salver.cli.sections import SectionedCommand, SectionedOption

if TYPE_CHECKING:
    import ssl

    from salver.bench.course import Plan
    from salver.bench.report import BenchReport
    from salver.bench.schedule import Arrivals


def _option(
    section: str, *declarations: str, **attributes: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(*declarations, cls=SectionedOption, section=section, **attributes)


@click.command(cls=SectionedCommand)
@click.argument("url")
@_option(
    "Load",
    "--rate",
    "wanted_rates",
    required=True,
    metavar="R[,R...]",
    type=rates,
    help="Requests per second; several give a table; max: as fast as it answers.",
)
@_option(
    "Load",
    "--arrivals",
    type=click.Choice(["poisson", "uniform"]),
    default="poisson",
    show_default=True,
    help="Random, as of many clients, or evenly spaced.",
)
@_option(
    "Load",
    "--duration",
    "duration_s",
    metavar="TIME",
    type=duration,
    default="10s",
    show_default=True,
    help="Of each rate.",
)
@_option(
    "Load",
    "--warmup",
    "warmup_s",
    metavar="TIME",
    type=pause,
    default="1s",
    show_default=True,
    help="Before that, not counted.",
)
@_option(
    "Load",
    "--connections",
    metavar="N",
    type=click.IntRange(1, 50_000),
    default=256,
    show_default=True,
    help="At most; with all of them busy, requests wait, and that counts.",
)
@_option(
    "Load",
    "--timeout",
    "timeout_s",
    metavar="TIME",
    type=duration,
    default="10s",
    show_default=True,
    help="For an answer, and before that for a connection.",
)
@_option("Load", "--seed", metavar="N", type=int, default=0, show_default=True, help="Of the arrivals.")
@_option("Request", "-X", "--method", metavar="NAME", help="Default GET, with data POST.")
@_option("Request", "-H", "--header", "headers", metavar="'NAME: VALUE'", multiple=True, type=header, help="Add one.")
@_option("Request", "-d", "--data", metavar="TEXT", help="The body.")
@_option(
    "Request",
    "--data-file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="The body is in FILE.",
)
@_option("Request", "--insecure", is_flag=True, help="Trust any certificate.")
@_option(
    "Request",
    "--ca",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Trust the CAs in FILE only.",
)
@_option(
    "Result",
    "--slo",
    "objectives",
    metavar="SLO",
    multiple=True,
    type=objective,
    help="Exit with 1 unless it is met: p99<50ms, ttfb_p99<20ms, errors<0.1%, rejected<5%, rate>=990/s.",
)
@_option("Result", "--json", "as_json", is_flag=True, help="Print one JSON document.")
def bench(
    url: str,
    wanted_rates: tuple[float | None, ...],
    arrivals: Arrivals,
    duration_s: float,
    warmup_s: float,
    connections: int,
    timeout_s: float,
    seed: int,
    method: str | None,
    headers: tuple[tuple[str, str], ...],
    data: str | None,
    data_file: str | None,
    insecure: bool,
    ca: str | None,
    objectives: tuple[Objective, ...],
    as_json: bool,
) -> None:
    """\b
    Send requests to URL at a fixed rate and show what its users would feel.

    \b
    Examples:
      salver bench http://127.0.0.1:8000/ --rate 1000
      salver bench http://127.0.0.1:8000/ --rate 500,1000,2000 --duration 30s     latency under load
      salver bench http://127.0.0.1:8000/ --rate 1000 --slo 'p99<50ms' --slo 'errors<0.1%'
      salver bench http://127.0.0.1:8000/predict --rate 50 --data-file image.jpg --json

    Requests leave when they are due, however the server does, and latency counts from then. Nothing but URL is
    contacted. How to read the result: docs/bench.md.
    """
    from salver.bench.course import Plan
    from salver.bench.generator import Limits

    request = _request(url, method, headers, data, data_file)
    plan = Plan(
        request=request,
        tls=_tls(request, ca, insecure=insecure),
        rates=wanted_rates,
        arrivals=arrivals,
        warmup_s=warmup_s,
        duration_s=duration_s,
        limits=Limits(connections, timeout_s),
        seed=seed,
        objectives=objectives,
    )
    _end(_measured(plan), as_json=as_json)


def _request(
    url: str, method: str | None, headers: tuple[tuple[str, str], ...], data: str | None, data_file: str | None
) -> Request:
    if data is not None and data_file is not None:
        raise click.UsageError("--data and --data-file: one of them.")
    body = data.encode() if data is not None else None
    if data_file is not None:
        body = Path(data_file).read_bytes()
    try:
        return make_request(url, method or ("GET" if body is None else "POST"), headers, body)
    except RequestError as error:
        raise click.UsageError(str(error)) from None


def _tls(request: Request, ca: str | None, *, insecure: bool) -> ssl.SSLContext | None:
    if insecure and ca is not None:
        raise click.UsageError("--insecure and --ca: one of them.")
    if not request.tls:
        if insecure or ca is not None:
            raise click.UsageError("--insecure and --ca are for https:// URLs.")
        return None
    import ssl

    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise click.BadParameter(f"{ca!r} holds no certificates in PEM format.", param_hint="--ca") from None
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _measured(plan: Plan) -> BenchReport:
    from salver.bench.course import Course
    from salver.bench.report import report
    from salver.cli.bench_progress import progress_line

    with progress_line() as show:
        course = Course(plan, show)
        try:
            course.run()
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    return report(plan, course.outcomes, interrupted=course.interrupted)


def _end(measured: BenchReport, *, as_json: bool) -> NoReturn:
    """Print it, and exit as it deserves."""
    from salver.cli.bench_report import document, text

    click.echo(document(measured) if as_json else text(measured))
    for run in measured.runs:
        at = f"at {run.rate:g}/s, " if run.rate is not None and len(measured.runs) > 1 else ""
        for warning in run.warnings:
            say(f"{click.style('Warning:', fg='yellow')} {at}{warning}")
    if measured.interrupted:
        sys.exit(130)
    if not any(run.requests for run in measured.runs):
        fail("no request was due in so short a time at so low a rate.", 1)
    if not any(run.answers for run in measured.runs):
        fail(f"{measured.url} has not answered a single request.", 1)
    sys.exit(1 if measured.met is False else 0)
