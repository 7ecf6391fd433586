"""What users say about the ingress, in flags or in ``serve.start``, reaches the proxies, the restarted ones too."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable

import pytest
import requests

from harness.instance import SalverRun
from harness.waiting import eventually

SOURCE = """
import asyncio
from salver import serve

@serve.deployment
class Scope:
    async def __call__(self, request):
        if request.url.path.endswith("/sleep"):
            await asyncio.sleep(60)
        if request.url.path.endswith("/body"):
            return str(len(await request.body()))
        if request.url.path.endswith("/raise"):
            raise RuntimeError("a secret of the handler")
        scope = request.scope
        return {
            "path": scope["path"],
            "raw_path": scope["raw_path"].decode(),
            "root_path": scope["root_path"],
            "url": str(request.url),
        }

app = Scope.bind()
"""


def talk(run: SalverRun, request: bytes) -> bytes:
    """All that comes back until the other side closes, which it must."""
    with socket.create_connection(("127.0.0.1", run.port), timeout=30) as client:
        client.sendall(request)
        data = b""
        while piece := client.recv(65536):
            data += piece
        return data


@pytest.fixture
def scope_run(salver_run: Callable[..., SalverRun]) -> Callable[..., SalverRun]:
    return lambda *argv: salver_run("app:app", "--port", "0", *argv, files={"app.py": SOURCE})


@pytest.mark.parametrize(("flag", "limit"), [("1000", 1000), ("2k", 2048), ("1M", 1024**2)])
def test_a_body_over_the_limit_is_refused_before_it_is_sent(
    scope_run: Callable[..., SalverRun], flag: str, limit: int
) -> None:
    run = scope_run("--max-body", flag)
    refused = talk(run, b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (limit + 1))
    assert refused.startswith(b"HTTP/1.1 413 ")
    allowed = requests.post(run.url + "body", data=bytes(limit), timeout=30)
    assert allowed.text == str(limit)
    chunks = b"".join(b"400\r\n%s\r\n" % bytes(1024) for _ in range(limit // 1024 + 1))
    head = b"POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    assert talk(run, head + chunks).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(("prefix", "path"), [("/", "/x%20y"), ("/app", "/app/x%20y")])
def test_the_root_path_is_in_the_scope(salver_run: Callable[..., SalverRun], prefix: str, path: str) -> None:
    """The application sees the URL that clients have used: what the proxy in front has stripped is put back."""
    argv = ("--port", "0", "--root-path", "/outside/", "--route-prefix", prefix)
    run = salver_run("app:app", *argv, files={"app.py": SOURCE})
    seen = requests.get(f"http://127.0.0.1:{run.port}{path}?q=1", timeout=30).json()
    assert seen == {
        "path": "/outside" + path.replace("%20", " "),
        "raw_path": "/outside" + path,
        "root_path": "/outside" + prefix.rstrip("/"),
        "url": f"http://127.0.0.1:{run.port}/outside{path.replace('%20', ' ')}?q=1",  # Starlette's is not quoted
    }


def test_an_idle_connection_is_closed(scope_run: Callable[..., SalverRun]) -> None:
    run = scope_run("--keep-alive", "0.5")
    began = time.monotonic()
    answer = talk(run, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" not in answer
    assert 0.4 < time.monotonic() - began < 20  # it would be 90 s else


@pytest.mark.parametrize("status", [504, 408])
def test_a_request_that_takes_too_long_is_given_up(scope_run: Callable[..., SalverRun], status: int) -> None:
    run = scope_run("--request-timeout", "0.5", "--timeout-status", str(status))
    began = time.monotonic()
    assert requests.get(run.url + "sleep", timeout=50).status_code == status
    assert 0.4 < time.monotonic() - began < 20
    eventually("what takes no time is answered", lambda: requests.get(run.url, timeout=50).status_code == 200)


def test_applications_that_import_ray_hear_408(salver_run: Callable[..., SalverRun]) -> None:
    source = SOURCE.replace("from salver import serve", "from ray import serve")
    argv = ("--port", "0", "--compat", "--request-timeout", "0.5")
    run = salver_run("app:app", *argv, files={"app.py": source})
    assert requests.get(run.url + "sleep", timeout=50).status_code == 408


def test_options_survive_the_proxy(scope_run: Callable[..., SalverRun]) -> None:
    run = scope_run("--max-body", "1000", "--root-path", "/outside")
    (proxy,) = run.pids()["proxy"]
    os.kill(proxy, signal.SIGKILL)
    eventually("there is another proxy", lambda: [pid for pid in run.pids()["proxy"] if pid != proxy])
    assert requests.post(run.url + "body", data=bytes(1001), timeout=30).status_code == 413
    assert requests.get(run.url, timeout=30).json()["root_path"] == "/outside"


@pytest.mark.parametrize("debug", [False, True])
def test_tracebacks_are_for_debugging(scope_run: Callable[..., SalverRun], debug: bool) -> None:
    run = scope_run(*(["--debug"] if debug else []))
    answer = requests.get(run.url + "raise", timeout=30)
    assert answer.status_code == 500
    assert ("a secret of the handler" in answer.text) is debug
    run.wait_for_output("a secret of the handler")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--debug --host 0.0.0.0", "--debug shows tracebacks to every client: not with --host 0.0.0.0."),
        ("--debug --host ::", "--debug shows tracebacks to every client: not with --host ::."),
        ("--max-body 0", "'0' is not a size of at least 1 byte, like 1000000, 64M or 2G."),
        ("--max-body 5T", "'5T' is not a size"),
        ("--max-body -1", "'-1' is not a size"),
        ("--keep-alive 0", "'0' is not a number above 0."),
        ("--request-timeout nan", "'nan' is not a number above 0."),
        ("--request-timeout inf", "'inf' is not a number above 0."),
        ("--request-timeout soon", "'soon' is not a number above 0."),
        ("--timeout-status 500", "'500' is not one of '504', '408'"),
        ("--root-path outside", "'outside' must be a path that begins with '/', or nothing."),
        ("--ssl-certfile a.pem", "--ssl-certfile and --ssl-keyfile must be given together."),
        ("--ssl-ca-certs a.pem", "--ssl-ca-certs needs --ssl-certfile and --ssl-keyfile."),
        ("--proxies 0", "0 is not in the range 1<=x<=64."),
        (
            "--instance 8000 --port 9000 --max-body 1G",
            "--port, --max-body: not with --instance, which has been listening since it was started.",
        ),
    ],
)
def test_flags_that_make_no_sense(salver_run: Callable[..., SalverRun], flags: str, message: str) -> None:
    run = salver_run("app:app", *flags.split(), wait_ready=False)
    assert run.wait(20) == 2
    assert message in run.output()


def test_help_has_sections(salver_run: Callable[..., SalverRun]) -> None:
    run = salver_run("--help", wait_ready=False)
    assert run.wait(20) == 0
    lines = run.output().splitlines()
    titles = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    sections = ["Application", "HTTP", "TLS", "Limits", "Resources", "Control API", "Logs", "Options"]
    sections.append("Of Ray Serve, without effect here")
    assert titles == [f"{section}:" for section in sections]


SCRIPT = """
import requests, warnings
from salver import serve

warnings.simplefilter("error")

@serve.deployment
class Scope:
    async def __call__(self, request):
        return request.scope["root_path"]

options = {"port": 0, "root_path": "/outside/", "max_body_bytes": 10, "root_url": "http://elsewhere"}
serve.start(http_options=options)
url = "http://127.0.0.1:" + serve.status().instance.name
serve.run(Scope.bind())
print(requests.get(url).text, requests.post(url, data="x" * 11).status_code, serve.status().instance.url)
"""


def test_options_of_a_script(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    answer = run_python(SCRIPT)
    assert answer.stdout.split() == ["/outside", "413", "http://elsewhere"], answer.stderr


START = """
import warnings
from salver import serve

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        serve.start(
            "HeadOnly",
            {"port": 0},
            {"port": 9001},
            serve.config.LoggingConfig(encoding="JSON"),
            {"sampling_ratio": 1},
            {"runtime_env": {"env_vars": {"A": "1"}}},
            detached=True,
            proxy=3,
        )
        serve.start()
print([(w.filename.endswith("driver.py"), str(w.message)) for w in caught])
"""


def test_what_has_no_effect_is_told_once(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    answer = run_python(START)
    assert answer.returncode == 0, answer.stderr
    told = eval(answer.stdout)
    assert [message for _, message in told] == [
        *(
            f"'{name}' of serve.start is accepted but has no effect in this version"
            for name in ("grpc_options", "tracing_config", "controller_options")
        ),
        "serve.start ignores 'detached': there is no such option.",
        "serve.start ignores 'proxy': there is no such option. Did you mean 'proxies'?",
        "Serve is already running; the options of this start are ignored",
    ]
    assert all(at_the_users_line for at_the_users_line, _ in told)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("proxy_location='Moon'", 'proxy_location=\'Moon\': must be "Disabled", "HeadOnly", "EveryNode" or None'),
        ("http_options=8000", "http_options=8000: must be a HTTPOptions, a dict of its fields, or None"),
        ("grpc_options={'prot': 1}", "grpc_options.prot: there is no such option. Did you mean 'port'?"),
        ("logging_config={'encoding': 'XML'}", 'logging_config.encoding=\'XML\': must be "TEXT" or "JSON"'),
        ("tracing_config={'sampling_ratio': 2}", "tracing_config.sampling_ratio=2: must be a number from 0 to 1"),
        ("controller_options={'a': 1}", "controller_options.a: there is no such option."),
        ("proxies=0", "proxies=0: must be an integer from 1 to 64"),
        (
            "http_options={'host': '0.0.0.0', 'debug': True}",
            "debug=True: shows clients tracebacks, so needs a loopback host, not '0.0.0.0'",
        ),
        (
            "http_options={'ssl_certfile': 'nowhere', 'ssl_keyfile': 'nowhere'}",
            "ConfigurationError: the file of the certificate cannot be read: 'nowhere': No such file or directory",
        ),
    ],
)
def test_a_wrong_start_in_a_script(
    run_python: Callable[..., subprocess.CompletedProcess[str]], arguments: str, message: str
) -> None:
    answer = run_python(f"from salver import serve\nserve.start({arguments})\n")
    assert answer.returncode == 1
    assert message in answer.stderr.splitlines()[-1], answer.stderr
