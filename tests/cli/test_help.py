"""What commands say about themselves, and what they say to who mistypes them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from harness.instance import command_line, new_runtime_folder

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = [
    "run",
    "start",
    "deploy",
    "build",
    "status",
    "logs",
    "events",
    "controller-health",
    "config",
    "scale",
    "rollback",
    "delete",
    "token",
    "shutdown",
    "bench",
]


def salver(*argv: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    fixed = {"XDG_RUNTIME_DIR": str(new_runtime_folder()), "COLUMNS": "100", "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        command_line(("salver", *argv)),
        env={**os.environ, **fixed, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_as_reviewed(command: str) -> None:
    """To accept a change: ``UPDATE_GOLDEN=1 pytest tests/cli/test_help.py``, and read the difference."""
    answer = salver(*command.split(), "--help")
    assert (answer.returncode, answer.stderr) == (0, "")
    path = GOLDEN / f"{command or 'salver'}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(answer.stdout)
    assert answer.stdout == path.read_text()


def test_every_command_begins_with_examples_and_is_listed() -> None:
    overview = salver("--help").stdout
    for command in COMMANDS:
        text = salver(command, "--help").stdout
        assert "Examples:" in text.partition("Options:")[0]
        assert f"salver {command}" in text.partition("Examples:")[2]
        assert f"\n  {command} " in overview


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["statsu"], "No such command 'statsu'. Did you mean 'status'?"),
        (["shutdwon", "-y"], "Did you mean 'shutdown'?"),
        (["xyz"], "No such command 'xyz'.\n"),
        (["run", "--prot", "1", "app:app"], "--port"),
        (["run"], "Missing argument 'CONFIG_OR_IMPORT_PATH'"),
        (["scale", "default", "2"], "'default' must be of the form APP/DEPLOYMENT"),
        (["scale", "default/Model", "-1"], "-1"),
        (["status", "--json", "--watch"], "--watch, --json and --yaml: one of them."),
        (["start", "--name", "a/b"], "'a/b' must be up to 40 letters"),
        (["start", "--name", "logs"], "and not 'logs'"),
        (["deploy", "app:app", "--dry-run"], "there is no file 'app:app'"),
        (
            ["run", "app:app", "--reload", "--non-blocking"],
            "--non-blocking option conflicts with the --reload option",
        ),
        (["run", "app:app", "--runtime-env-json", "[1]"], "must be a mapping"),
        (["run", "app:app", "--runtime-env-json", "{"], "--runtime-env-json"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_right(argv: list[str], said: str) -> None:
    answer = salver(*argv)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("argv", [["status"], ["shutdown", "-y"], ["deploy", "app:app"], ["events"], ["config"]])
def test_without_an_instance_commands_fail_with_1(argv: list[str]) -> None:
    answer = salver(*argv)
    assert answer.returncode == 1
    assert "No instance is running. Start one with `salver run module:app`." in answer.stderr


def test_reload_without_watchfiles_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['watchfiles'] = None")
    answer = salver("run", "app:app", "--reload", env={"PYTHONPATH": str(tmp_path)})
    assert answer.returncode == 2
    assert "--reload needs the package watchfiles: pip install watchfiles." in answer.stderr


def test_a_shell_can_complete_commands() -> None:
    answer = salver(env={"_SALVER_COMPLETE": "bash_complete", "COMP_WORDS": "salver st", "COMP_CWORD": "1"})
    assert answer.stdout.split() == ["plain,start", "plain,status"]
    assert "complete" in salver(env={"_SALVER_COMPLETE": "zsh_source"}).stdout


def test_serve_is_the_same_command() -> None:
    ours, theirs = (
        subprocess.run(command_line((name, "run", "--help")), capture_output=True, text=True, timeout=60, check=False)
        for name in ("salver", "serve")
    )
    assert theirs.stdout.replace("serve run [OPTIONS]", "salver run [OPTIONS]") == ours.stdout


def test_ray_s_flags_of_start_are_taken_with_a_warning() -> None:
    answer = salver("start", "--grpc-port", "9000", "--http-host", "127.0.0.1", "--http-port", "-1")
    assert "--grpc-port has no effect" in answer.stderr
    assert answer.returncode == 2
    assert "Invalid value for '--port': -1" in answer.stderr
