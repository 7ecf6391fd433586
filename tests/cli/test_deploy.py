"""``salver deploy`` as its user sees it: what it says while it waits, what it takes away, what it cannot do."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.instance import SalverRun
from harness.terminal import on_a_terminal
from harness.waiting import eventually

from .progress import without_progress

WITHIN_S = 60.0
Run = Callable[..., SalverRun]

APP = """
import pathlib, time
from salver import serve

@serve.deployment(OPTIONS)
class Hello:
    def __init__(self):
        BODY

    def __call__(self, request):
        return "VERSION"

app = Hello.bind()
"""
HANGS = "while not pathlib.Path('go').exists(): time.sleep(0.05)"
RAISES = "raise ValueError('no weights')"
CONFIG = "applications: [{name: shop, import_path: 'hello:app'}]\n"


def write(folder: Path, body: str = "pass", *, options: str = "", version: str = "one", config: str = CONFIG) -> None:
    source = APP.replace("OPTIONS", options).replace("BODY", body).replace("VERSION", version)
    (folder / "hello.py").write_text(source)
    (folder / "serve.yaml").write_text(config)


@contextmanager
def waiting(run: SalverRun, *argv: str) -> Generator[SalverRun]:
    """A command beside ``run`` that is still at work."""
    command = SalverRun.launch("salver", *argv, cwd=run.cwd, env={"XDG_RUNTIME_DIR": str(run.runtime)})
    try:
        yield command
    finally:
        command.stop()


# --- what it says while it waits --------------------------------------------------------------------------


def test_a_constructor_that_raises_is_told_while_it_is_tried_again(salver_start: Run, tmp_path: Path) -> None:
    write(tmp_path, RAISES, options="num_replicas=5")
    run = salver_start("--foreground")
    with waiting(run, "deploy", "serve.yaml") as deploy:
        deploy.wait_for_output(r"shop/Hello: UPDATING, 0/5 replicas\n", WITHIN_S)
        deploy.wait_for_output(r"\nshop/Hello: constructor of Hello failed: ValueError: no weights\n", WITHIN_S)
        assert deploy.is_alive(), "it goes on waiting"
        assert "Traceback" not in deploy.output()


def test_a_message_is_told_once_and_a_failure_in_full(salver_start: Run, tmp_path: Path) -> None:
    write(tmp_path, RAISES)
    run = salver_start("--foreground")
    deployed = run.cli("deploy", "serve.yaml", timeout=WITHIN_S)
    assert deployed.returncode == 1
    brief = "shop/Hello: constructor of Hello failed: ValueError: no weights"
    assert deployed.stderr.splitlines().count(brief) == 1, deployed.stderr
    assert "Error: Deploying application shop failed: constructor of Hello failed" in deployed.stderr
    assert deployed.stderr.count("Traceback (most recent call last)") == 1


def test_what_finds_no_room_says_for_what_it_waits(salver_start: Run, tmp_path: Path) -> None:
    write(tmp_path, options="ray_actor_options={'memory': 9000 * 2**30}")
    run = salver_start("--foreground")
    with waiting(run, "deploy", "hello:app", "--name", "shop") as deploy:
        deploy.wait_for_output(
            r"shop/Hello: waiting for room: needs [\d.]+ [GT]iB of memory, this machine has", WITHIN_S
        )


def test_a_build_says_what_it_does(salver_start: Run, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "hello.py").write_text("import time\nwhile True:\n    time.sleep(1)\n")
    run = salver_start("--foreground")
    with waiting(run, "deploy", "serve.yaml") as deploy:
        deploy.wait_for_output(r"shop: importing hello:app\n", WITHIN_S)
        assert run.status()["applications"] == {}, "nothing is changed before it is built"


def test_messages_stay_above_the_picture_on_a_terminal(salver_start: Run, tmp_path: Path) -> None:
    write(tmp_path, RAISES, options="num_replicas=5")
    run = salver_start("--foreground")
    _, output = on_a_terminal(run, "deploy", "serve.yaml", until="ValueError: no weights")
    assert "shop/Hello: constructor of Hello failed: ValueError: no weights" in output


def test_a_rollback_says_what_it_waits_for(salver_start: Run, tmp_path: Path) -> None:
    run = salver_start("--foreground")
    write(tmp_path)
    assert run.cli("deploy", "serve.yaml", timeout=WITHIN_S).returncode == 0
    write(tmp_path, version="two")
    assert run.cli("deploy", "serve.yaml", timeout=WITHIN_S).returncode == 0
    back = run.cli("rollback", "shop", timeout=WITHIN_S)
    assert back.returncode == 0, back.stderr
    assert "shop/Hello: HEALTHY, 1/1 replicas" in back.stderr


# --- who comes in between ---------------------------------------------------------------------------------

REPLACED = r"Error: a later deploy, accepted at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, has replaced this one of 'shop'\."
OVERTAKEN_WITH = [
    ("deploy", "serve.yaml"),
    ("deploy", "hello:app", "--name", "shop"),
    ("rollback", "shop"),
]


@pytest.mark.parametrize("source", ["serve.yaml", "hello:app"])
@pytest.mark.parametrize("later", OVERTAKEN_WITH, ids=["config", "code", "rollback"])
def test_a_deploy_that_is_overtaken_has_failed(
    salver_start: Run, tmp_path: Path, source: str, later: tuple[str, ...]
) -> None:
    run = salver_start("--foreground")
    write(tmp_path)
    where = () if source == "serve.yaml" else ("--name", "shop")
    assert run.cli("deploy", source, *where, timeout=WITHIN_S).returncode == 0
    write(tmp_path, HANGS, version="two")
    with waiting(run, "deploy", source, *where) as deploy:
        deploy.wait_for_output("shop/Hello: UPDATING, 1/1 replicas", WITHIN_S)
        write(tmp_path, version="three")
        after = run.cli(*later, timeout=WITHIN_S)
        assert after.returncode == 0, after.stderr
        assert deploy.wait(WITHIN_S) == 1
        assert re.search(REPLACED, deploy.output()), deploy.output()
        assert "Ready at" not in deploy.output()


def test_a_deploy_that_is_overtaken_while_it_is_built_has_failed(salver_start: Run, tmp_path: Path) -> None:
    run = salver_start("--foreground")
    write(tmp_path)
    begun = tmp_path / "begun"
    never = f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\nwhile True:\n    time.sleep(1)\n"
    (tmp_path / "hello.py").write_text(never)
    with waiting(run, "deploy", "serve.yaml") as deploy:
        deploy.wait_for_output("shop: importing hello:app", WITHIN_S)
        eventually("it has read its source", begun.exists, WITHIN_S)
        write(tmp_path)
        assert run.cli("deploy", "serve.yaml", timeout=WITHIN_S).returncode == 0
        assert deploy.wait(WITHIN_S) == 1
        assert re.search(REPLACED, deploy.output()), deploy.output()


@pytest.mark.parametrize("source", ["serve.yaml", "hello:app"])
def test_another_controller_is_not_another_deploy(salver_start: Run, tmp_path: Path, source: str) -> None:
    run = salver_start("--foreground")
    write(tmp_path, HANGS)
    with waiting(run, "deploy", source) as deploy:
        deploy.wait_for_output("/Hello: UPDATING, 0/1 replicas", WITHIN_S)
        (controller,) = run.pids()["controller"]
        os.kill(controller, signal.SIGKILL)
        eventually("there is another", lambda: set(run.pids()["controller"]) - {controller}, WITHIN_S)
        (tmp_path / "go").touch()
        assert deploy.wait(WITHIN_S) == 0, deploy.output()
        assert "Ready at" in deploy.output()


def test_another_application_does_not_matter(salver_start: Run, tmp_path: Path) -> None:
    run = salver_start("--foreground")
    write(tmp_path, HANGS)
    with waiting(run, "deploy", "hello:app", "--name", "shop") as deploy:
        deploy.wait_for_output("shop/Hello: UPDATING, 0/1 replicas", WITHIN_S)
        write(tmp_path)
        other = run.cli("deploy", "hello:app", "--name", "other", "--route-prefix", "/other", timeout=WITHIN_S)
        assert other.returncode == 0, other.stderr
        (tmp_path / "go").touch()
        assert deploy.wait(WITHIN_S) == 0, deploy.output()


# --- what it takes away, and what it cannot change --------------------------------------------------------

TWO = """\
applications:
  - {name: shop, route_prefix: /shop, import_path: 'hello:app'}
  - {name: till, route_prefix: /till, import_path: 'hello:app'}
"""


def test_applications_that_a_file_does_not_name_are_told(salver_start: Run, tmp_path: Path) -> None:
    run = salver_start("--foreground")
    write(tmp_path, config=TWO)
    first = run.cli("deploy", "serve.yaml", timeout=WITHIN_S)
    assert first.returncode == 0
    assert "removed" not in first.stderr
    of_code = run.cli("deploy", "hello:app", "--name", "mine", "--route-prefix", "/mine", timeout=WITHIN_S)
    assert of_code.returncode == 0

    write(tmp_path)
    checked = run.cli("deploy", "serve.yaml", "--dry-run")
    would_be = ["till: would be removed, the file does not name it", "serve.yaml is in order."]
    assert (checked.returncode, without_progress(checked.stderr)) == (0, would_be)
    assert run.status()["applications"].keys() == {"shop", "till", "mine"}

    second = run.cli("deploy", "serve.yaml", "--no-wait", timeout=WITHIN_S)
    said = "till: removed, the file does not name it\nSent deploy request successfully.\n"
    assert (second.returncode, second.stderr) == (0, said)


OTHER_INGRESS = """\
proxy_location: HeadOnly
http_options:
  port: 1
  host: 127.0.0.1
  request_timeout_s: 7.5
  max_body_bytes: 1000
"""


@pytest.mark.parametrize("flag", ["--dry-run", "--no-wait"])
def test_what_an_instance_does_not_change_is_told(salver_start: Run, tmp_path: Path, flag: str) -> None:
    run = salver_start("--foreground", "--max-body", "1000")
    write(tmp_path, config=OTHER_INGRESS + CONFIG)
    answer = run.cli("deploy", "serve.yaml", flag, timeout=WITHIN_S)
    assert answer.returncode == 0
    of_file, *warnings = [line for line in answer.stderr.splitlines() if line.startswith("Warning: ")]
    assert of_file.startswith('Warning: serve.yaml:1:17: proxy_location="HeadOnly": ')
    kept = "until it is started anew."
    assert warnings == [
        f"Warning: http_options.port=1 has no effect: instance {run.name} has {run.port} {kept}",
        f"Warning: http_options.request_timeout_s=7.5 has no effect: instance {run.name} has null {kept}",
    ]


def test_several_instances_are_not_compared_unless_one_is_chosen(salver_start: Run, tmp_path: Path) -> None:
    first = salver_start("--foreground")
    salver_start("--foreground", env={"XDG_RUNTIME_DIR": str(first.runtime)})
    write(tmp_path, config="http_options: {port: 1}\n" + CONFIG)
    checked = first.cli("deploy", "serve.yaml", "--dry-run")
    assert checked.returncode == 0
    assert "--instance NAME" in checked.stderr
    assert "no effect" not in checked.stderr
    assert "no effect" in first.cli("deploy", "serve.yaml", "--dry-run", "--instance", first.name).stderr


# --- what is no file --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["deploy", "server.yaml"], "There is no file 'server.yaml'. Did you mean 'serve.yaml'?"),
        (["deploy", "nofile.yaml", "--dry-run"], "There is no file 'nofile.yaml'."),
        (["run", "server.yml"], "There is no file 'server.yml'. Did you mean 'serve.yaml'?"),
        (["run", "nowhere/serve.yaml"], "There is no file 'nowhere/serve.yaml'. There is no folder 'nowhere'."),
        (["deploy", "./"], "'./' is a folder, not a config file."),
    ],
)
def test_a_file_that_is_not_there_is_no_module(salver_start: Run, tmp_path: Path, argv: list[str], said: str) -> None:
    write(tmp_path)
    run = salver_start("--foreground")
    answer = run.cli(*argv, timeout=WITHIN_S)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.endswith(f"\nError: {said}\n")


def test_code_that_ends_its_process_is_told(salver_start: Run, tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("import os\nos._exit(0)\n")
    run = salver_start("--foreground")
    answer = run.cli("deploy", "hello:app", timeout=WITHIN_S)
    assert answer.returncode == 1
    assert "hello:app was not deployed: its code ended the process that imports it." in answer.stderr
