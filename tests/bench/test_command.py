"""``salver bench`` as users run it: real processes, their output and their exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from click.testing import CliRunner

from bench.raw_server import RawServer, answer
from harness.instance import SalverRun, command_line
from harness.waiting import eventually
from salver.bench.report import BenchReport
from salver.cli.bench import bench

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "bench.md"


def salver_bench(url: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_line(("salver", "bench", url, "--warmup", "0", *argv)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def document(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    msgspec.json.decode(run.stdout, type=BenchReport)
    return json.loads(run.stdout)


def test_an_application_of_salver_s(worker_run: Callable[..., SalverRun]) -> None:
    """The text for people, the document for programs, and both exit codes."""
    run = worker_run(replicas=1)
    told = salver_bench(run.url, "--rate", "40", "--duration", "500ms", "--slo", "p50<20s", "--slo", "errors<0.1%")
    assert told.returncode == 0, told.stderr
    for line in (
        r"GET http://\S+ · poisson arrivals, at most 256 connections\n",
        r"\nRequests +\d+ due in 0.5 s\n",
        r"\nAnswers +200: \d+\n",
        r"\n  successful +([\d.,]+ +){4}[\d.,]+\n",
        r"\nSLO +p50<20s +met +[\d.]+ ms\n +errors<0.1%  met +0 %\n",
    ):
        assert re.search(line, told.stdout), told.stdout

    load = ("--rate", "40,max", "--duration", "1s", "--connections", "4")
    missed = salver_bench(run.url, *load, "--slo", "max<0.001ms", "--json")
    assert missed.returncode == 1
    found = document(missed)
    assert [each["rate"] for each in found["runs"]] == [40, None]
    assert (found["met"], found["interrupted"]) == (False, False)
    assert all(each["requests"] == each["successful"] == each["statuses"]["200"] > 0 for each in found["runs"])
    assert "hide the stalls" in missed.stderr


def test_the_document_has_the_fields_that_are_documented() -> None:
    """Every field is a row of the tables in docs/bench.md, and every row is a field."""
    tables = DOCUMENT.read_text().partition("## The JSON document")[2]
    rows = set(re.findall(r"^\| `(\w+)` \|", tables, re.MULTILINE))
    with RawServer() as server:
        found = document(salver_bench(server.url, "--rate", "50", "--duration", "200ms", "--slo", "p1<9s", "--json"))
    run = found["runs"][0]
    fields = [found, run, run["latency_ms"], run["generator"], run["slo"][0]]
    assert rows == set().union(*fields)


def test_an_open_loop_shows_the_stall_that_a_closed_one_hides() -> None:
    """The server stalls once for a second. Of those who come within 1.2 s most meet that; one connection in a closed
    loop meets it once, and its percentiles know nothing of it (coordinated omission)."""

    def stalling_at(request: int) -> Callable[[int, asyncio.StreamWriter], Any]:
        loop_free = asyncio.Lock()

        async def answerer(number: int, writer: asyncio.StreamWriter) -> None:
            async with loop_free:  # one at a time, as a server with one thread
                if number == request:
                    await asyncio.sleep(1)
                writer.write(answer())

        return answerer

    one = ("--connections", "1", "--warmup", "0", "--json")
    due = ("--rate", "200", "--arrivals", "uniform", "--duration", "1200ms")
    with RawServer(stalling_at(20)) as server:
        opened = document(salver_bench(server.url, *due, *one))["runs"][0]
    with RawServer(stalling_at(20)) as server:
        closed = document(salver_bench(server.url, "--rate", "max", "--duration", "2s", *one))["runs"][0]
    assert min(opened["latency_ms"]["max"], closed["latency_ms"]["max"]) >= 990
    assert opened["latency_ms"]["p50"] >= 300
    assert opened["generator"]["waited"] >= 190
    assert closed["latency_ms"]["p50"] < 400
    assert opened["requests"] == opened["successful"] == 240


def test_rejections_are_told_apart() -> None:
    async def every_other(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(status=503 if number % 2 else 200))

    with RawServer(every_other) as server:
        slo = ("--slo", "rejected<60%", "--slo", "errors<1%")
        told = salver_bench(server.url, "--rate", "100", "--duration", "200ms", "--arrivals", "uniform", *slo)
    assert told.returncode == 1
    assert "200: 10 · 503: 10" in told.stdout
    assert re.search(r"\n  rejected \(429, 503\) +[\d.]+", told.stdout)
    assert re.search(r"rejected<60%  met +50 %\n +errors<1% +missed  50 %", told.stdout)


def test_a_server_that_only_breaks_off_has_not_answered() -> None:
    async def close(_: int, writer: asyncio.StreamWriter) -> None:
        writer.close()

    with RawServer(close) as server:
        told = salver_bench(server.url, "--rate", "50", "--duration", "200ms")
    assert told.returncode == 1
    assert re.search(r"No answer +closed: \d+, the server closed the connection without an answer", told.stdout)
    assert "has not answered a single request." in told.stderr
    gone = salver_bench(server.url, "--rate", "50", "--json")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert re.fullmatch(r"Error: no server at 127.0.0.1:\d+: connection refused: .*\n", gone.stderr)


def test_ctrl_c_ends_it_at_once_with_what_there_is() -> None:
    async def first_only(number: int, writer: asyncio.StreamWriter) -> None:
        if number < 5:
            writer.write(answer())

    with RawServer(first_only) as server:
        load = ("--rate", "50", "--duration", "1h", "--warmup", "0", "--connections", "8", "--json")
        process = subprocess.Popen(
            command_line(("salver", "bench", server.url, *load)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        eventually("some requests run", lambda: len(server.requests) >= 12, 30)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=5)  # promised is 1 s
    assert process.returncode == 130, errors
    found = json.loads(output)
    run = found["runs"][0]
    assert found["interrupted"]
    assert run["successful"] == 5
    assert run["requests"] == 5 + run["unfinished"]
    assert run["unfinished"] >= 12 - 5
    assert b"Traceback" not in errors


def test_what_is_sent_is_what_was_said(tmp_path: Path) -> None:
    authority = trustme.CA()
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
    (tmp_path / "body").write_bytes(b"\x00\r\n\xff")
    with RawServer(tls=theirs) as server:
        told = salver_bench(
            f"{server.url}predict?a=1",
            *("--rate", "20", "--duration", "100ms", "--ca", str(tmp_path / "ca.pem")),
            *("--data-file", str(tmp_path / "body"), "-H", "Authorization: Bearer x", "--method", "put"),
        )
        assert told.returncode == 0, told.stderr
        assert "PUT https://127.0.0.1:" in told.stdout
        assert "Bearer" not in told.stdout + told.stderr
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"PUT /predict?a=1 HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer x\r\ncontent-length: 4" in head
    assert body == b"\x00\r\n\xff"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--rate", "1"], "Missing argument 'URL'"),
        (["http://h/"], "Missing option '--rate'"),
        (["h:8000", "--rate", "1"], "must begin with http:// or https://"),
        (["http://h/", "--rate", "0"], "'0' is not a rate: requests per second, 0.001 to 1,000,000, or max."),
        (["http://h/", "--rate", "10,fast"], "'fast' is not a rate"),
        (["http://h/", "--rate", "nan"], "'nan' is not a rate"),
        (["http://h/", "--rate", "1", "--duration", "5 min"], "'5 min' is not a time of up to 24h, like 500ms"),
        (["http://h/", "--rate", "1", "--duration", "0"], "'0' is too short: at least 1ms."),
        (["http://h/", "--rate", "1", "--arrivals", "bursty"], "'poisson', 'uniform'"),
        (["http://h/", "--rate", "1", "--connections", "0"], "--connections"),
        (["http://h/", "--rate", "1", "--slo", "p99<50"], "'p99<50', character 7: expected the unit us, ms or s"),
        (["http://h/", "--rate", "1", "-H", "x"], "'x' has no colon"),
        (["http://h/", "--rate", "1", "-d", "x", "--data-file", __file__], "--data and --data-file: one of them."),
        (["https://h/", "--rate", "1", "--insecure", "--ca", __file__], "--insecure and --ca: one of them."),
        (["http://h/", "--rate", "1", "--insecure"], "--insecure and --ca are for https:// URLs."),
        (["https://h/", "--rate", "1", "--ca", __file__], "holds no certificates in PEM format."),
        (["http://h/", "--rate", "1", "--method", "G T"], "'G T' is no method"),
    ],
)
def test_wrong_usage_says_what_is_right(argv: list[str], said: str) -> None:
    told = CliRunner().invoke(bench, argv)
    assert told.exit_code == 2
    assert said in re.sub(r"\s+", " ", told.stderr)


def test_on_a_terminal_there_is_a_line_of_progress_and_it_is_gone_in_the_end() -> None:
    terminal, theirs = os.openpty()
    with RawServer() as server:
        process = subprocess.Popen(
            command_line(("salver", "bench", server.url, "--rate", "20", "--warmup", "0", "--duration", "500ms")),
            stdout=subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        output, _ = process.communicate(timeout=60)
    shown = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert process.returncode == 0
    assert re.search(r"20/s · \d s of 0.5 s · \d+ answers", shown)
    assert shown.rpartition(" answers")[2].startswith("\r\x1b[K")
    assert b"\x1b[K" not in output
