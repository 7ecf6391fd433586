"""The errors a newcomer makes: each is one clear sentence, with the exit code that says whose turn it is.

Exit codes: 1 the application failed, 2 the command was wrong, 3 Salver could not start.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.instance import SalverRun, command_line, new_runtime_folder

WITHIN_S = 60

APP = """
from salver import serve

@serve.deployment
class Hello:
    def __call__(self):
        return "hello"

app = Hello.bind()
unbound = Hello
number = 5

def build_of_two(a, b):
    return app

def build_nothing(args):
    return None
"""

SalverCommand = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def salver(tmp_path: Path) -> SalverCommand:
    """``salver("run", "app:app")`` to its end, in a folder with ``app.py`` and a runtime folder of its own."""

    def run(*argv: str, **files: str) -> subprocess.CompletedProcess[str]:
        for name, source in {"app": APP, **files}.items():
            (tmp_path / f"{name}.py").write_text(source)
        return subprocess.run(
            command_line(("salver", *argv)),
            cwd=tmp_path,
            env={**os.environ, "XDG_RUNTIME_DIR": str(new_runtime_folder())},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )

    return run


def assert_fails(answer: subprocess.CompletedProcess[str], code: int, message: str, *others: str) -> None:
    """The command ended with ``code`` and said, last of all, ``Error: `` and ``message``; before it, ``others``.

    Nothing that it said shows a frame of Salver's or of the import machinery, and stdout is clean.
    """
    said = without_markers(answer.stderr)
    assert answer.returncode == code, said
    assert message in said[f"\n{said}".rfind("\nError: ") :], said
    for other in others:
        assert other in answer.stderr, said
    assert not re.search(r"salver/\w+/\w+\.py|<frozen|importlib|click", said), f"not the user's code:\n{said}"
    assert answer.stdout == ""


def without_markers(text: str) -> str:
    """Python 3.13 marks with ``~~^^`` where in a line of a traceback it happened, older ones less often."""
    return re.sub(r"^\s*~*\^+\n", "", text, flags=re.MULTILINE)


# --- what to run ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("import_path", "message"),
    [
        ("ap:app", "No module named 'ap' in {folder}. Did you mean 'app'?"),
        ("somewhere:app", "No module named 'somewhere' in {folder}."),
        ("app:ap", "Module 'app' has no attribute 'ap'. Did you mean 'app'?"),
        ("app:elsewhere", "Module 'app' has no attribute 'elsewhere'. Applications in it: app."),
        ("app.py:app", "import path 'app.py:app': takes a module's name, not a file's: use 'app:app'"),
        ("app", "import path 'app': must be of the form 'module:attribute', like 'app:app'"),
        ("app:unbound", "app:unbound is a Deployment; bind it first: `app = unbound.bind()`"),
        (
            "app:number",
            "app:number: Expected a built Serve application or an application builder function but got: <cl",
        ),
        (
            "app:build_of_two",
            "app:build_of_two: Application builder functions should take exactly one parameter, a dict",
        ),
        (
            "app:build_nothing",
            "app:build_nothing: Application builder functions must return an `Application` returned",
        ),
    ],
)
def test_something_that_is_not_there_or_not_an_application(
    salver: SalverCommand, tmp_path: Path, import_path: str, message: str
) -> None:
    answer = salver("run", "--port", "0", import_path)
    assert_fails(answer, 1, f"Error: {message.format(folder=tmp_path)}")
    assert answer.stderr.count("\n") == 1, "one sentence, and nothing else"


# --- code that does not import ----------------------------------------------------------------------------


def test_a_syntax_error_is_shown_by_its_line_only(salver: SalverCommand, tmp_path: Path) -> None:
    answer = salver("run", "--port", "0", "broken:app", broken="x = 1\ndef f(:\n    pass\n")
    assert_fails(answer, 1, "Error: broken:app could not be loaded: SyntaxError.\n")
    assert answer.stderr.startswith(f'  File "{tmp_path}/broken.py", line 2\n    def f(:\n          ^\nSyntaxError: ')


def test_an_exception_at_import_shows_the_users_frames_only(salver: SalverCommand, tmp_path: Path) -> None:
    source = "def load():\n    raise ValueError('no weights')\n\nload()\n"
    answer = salver("run", "--port", "0", "raising:app", raising=source)
    assert_fails(answer, 1, "Error: raising:app could not be loaded: ValueError.\n")
    assert without_markers(answer.stderr).startswith(
        "Traceback (most recent call last):\n"
        f'  File "{tmp_path}/raising.py", line 4, in <module>\n'
        "    load()\n"
        f'  File "{tmp_path}/raising.py", line 2, in load\n'
        "    raise ValueError('no weights')\n"
        "ValueError: no weights\n"
    )


def test_a_missing_dependency_is_the_users_exception(salver: SalverCommand) -> None:
    answer = salver("run", "--port", "0", "needy:app", needy="import a_package_that_nobody_has\n")
    assert_fails(
        answer,
        1,
        "needy:app could not be loaded: ModuleNotFoundError.",
        'needy.py", line 1, in <module>',
        "No module named 'a_package_that_nobody_has'",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("num_replicas=0", 'OptionsError: num_replicas=0: must be an integer of at least 1, or "auto"'),
        ("max_ongoing_requests=None", "OptionsError: max_ongoing_requests=None: must be an integer of at least 1"),
        (
            "num_replica=2",
            "TypeError: serve.deployment() got an unexpected option 'num_replica'. Did you mean 'num_repl",
        ),
        ("max_concurrent_queries=2", "'max_concurrent_queries'. Its name is 'max_ongoing_requests'."),
        ("version='1'", "OptionsError: version: cannot be set; it follows from the deployment's code"),
        (
            "ray_actor_options={'num_cpu': 1}",
            "OptionsError: ray_actor_options.num_cpu: there is no such option. Did you mean 'num_cpus'?",
        ),
        (
            "ray_actor_options={'num_gpus': -1}",
            "OptionsError: ray_actor_options.num_gpus=-1: must be a number of at least 0, or None",
        ),
    ],
)
def test_a_wrong_option_says_what_is_allowed(salver: SalverCommand, options: str, message: str) -> None:
    source = f"from salver import serve\n\n@serve.deployment({options})\nclass Model:\n    pass\n"
    answer = salver("run", "--port", "0", "wrong:app", wrong=source)
    assert_fails(answer, 1, "wrong:app could not be loaded: ", message, 'wrong.py", line 3, in <module>')


# --- applications that cannot be built ----------------------------------------------------------------------


def test_an_argument_that_cannot_be_pickled_is_named(salver: SalverCommand) -> None:
    source = """
import threading
from salver import serve

@serve.deployment
class Model:
    def __init__(self, config, size=1):
        pass

app = Model.bind({"parts": [1, threading.Lock()]})
"""
    assert_fails(
        salver("run", "--port", "0", "locked:app", locked=source),
        1,
        "Error: deployment 'Model': argument 'config'['parts'][1] cannot be pickled: _thread.lock ",
    )


def test_arguments_that_do_not_fit_the_constructor_fail_at_bind(salver: SalverCommand) -> None:
    source = """
from salver import serve

@serve.deployment
class Model:
    def __init__(self, size: int):
        pass

app = Model.bind(sise=3)
"""
    answer = salver("run", "--port", "0", "unfit:app", unfit=source)
    assert_fails(
        answer, 1, "unfit:app could not be loaded: TypeError.", 'unfit.py", line 9', "the constructor is Model(size)"
    )


def test_two_ingresses_are_refused(salver: SalverCommand) -> None:
    source = """
from salver import serve

@serve.deployment
class Inner:
    __serve_is_asgi_ingress__ = True

@serve.deployment
class Outer:
    __serve_is_asgi_ingress__ = True

    def __init__(self, inner):
        pass

app = Outer.bind(Inner.bind())
"""
    assert_fails(
        salver("run", "--port", "0", "two:app", two=source),
        1,
        'Error: Found multiple FastAPI deployments in application "default". Please only include one deployment '
        "with @serve.ingress in your application to avoid this issue.\n",
    )


# --- constructors -------------------------------------------------------------------------------------------


def test_a_constructor_that_raises_shows_the_users_traceback(salver: SalverCommand, tmp_path: Path) -> None:
    source = """
from salver import serve

def load():
    raise ValueError("weights are missing")

@serve.deployment
class Model:
    def __init__(self):
        load()

    def __call__(self):
        return 1

app = Model.bind()
"""
    answer = salver("run", "--port", "0", "failing:app", failing=source)
    assert_fails(
        answer,
        1,
        "Error: Deploying application default failed: constructor of Model failed: ValueError: weights are missing\n"
        "Traceback (most recent call last):\n"
        f'  File "{tmp_path}/failing.py", line 10, in __init__\n'
        "    load()\n"
        f'  File "{tmp_path}/failing.py", line 5, in load\n'
        '    raise ValueError("weights are missing")\n'
        "ValueError: weights are missing\n",
        "the constructor of Model failed, as before",
    )
    assert answer.stderr.count("Traceback") == 2, "once in the log, once in the answer, however often it is tried"


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "sys.exit('no licence')",
            "constructor of Model failed: RuntimeError: the constructor raised SystemExit: no lic",
        ),
        ("os._exit(3)", " exited with code 3 before its constructor returned\n"),
        ("os.kill(os.getpid(), 9)", " was killed by SIGKILL before its constructor returned\n"),
    ],
)
def test_a_constructor_that_ends_its_process_is_told_how(salver: SalverCommand, statement: str, message: str) -> None:
    source = f"""
import os, sys
from salver import serve

@serve.deployment
class Model:
    def __init__(self):
        {statement}

app = Model.bind()
"""
    assert_fails(salver("run", "--port", "0", "ending:app", ending=source), 1, message)


def test_a_constructor_that_hangs_is_stopped_and_shown_where_it_was(salver: SalverCommand, tmp_path: Path) -> None:
    source = """
import threading
from salver import serve

def wait_for_a_server_that_is_down():
    threading.Event().wait()

@serve.deployment(startup_timeout_s=1.5)
class Model:
    def __init__(self):
        wait_for_a_server_that_is_down()

app = Model.bind()
"""
    answer = salver("run", "--port", "0", "hanging:app", hanging=source)
    assert_fails(
        answer,
        1,
        "Error: Deploying application default failed: constructor of Model did not return within 1.5 s\n",
        "the constructor of Model was stopped before it returned\nStack (most recent call first):\n",
        f'  File "{tmp_path}/hanging.py", line 6 in wait_for_a_server_that_is_down\n',
        f'  File "{tmp_path}/hanging.py", line 11 in __init__\n',
    )


# --- the command line ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("run",), "Missing argument 'CONFIG_OR_IMPORT_PATH'."),
        (("run", "app:app", "--prt", "1"), "No such option '--prt'. (Did you mean one of: '--compat', '--port'?)"),
        (("run", "app:app", "--port", "99999"), "Invalid value for '--port': 99999 is not in the range 0<=x<=65535."),
        (("run", "app:app", "--port", "http"), "Invalid value for '--port': 'http' is not a valid integer range."),
        (("run", "app:app", "--app-dir", "nowhere"), "Directory 'nowhere' does not exist."),
        (
            ("run", "--port", "0", "app:app", "size"),
            "Invalid application argument 'size', must be of the form '<key>=<val>'.",
        ),
        (
            ("run", "--port", "0", "app:app", "size=1"),
            "Arguments can only be passed to an application builder function, not an already built application.",
        ),
        (("run", "--port", "0", "app:app", "--route-prefix", "a"), "route_prefix='a': must start with '/'"),
        (("run", "--port", "0", "app:app", "--name", "a/b"), "name 'a/b': must not be empty or contain '#' or '/'"),
        (("rnu", "app:app"), "No such command 'rnu'. Did you mean 'run'?"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(salver: SalverCommand, argv: tuple[str, ...], message: str) -> None:
    assert_fails(salver(*argv), 2, message)


def test_builder_arguments_of_the_wrong_type_are_a_usage_error(salver: SalverCommand) -> None:
    source = """
from pydantic import BaseModel

class Arguments(BaseModel):
    size: int
    name: str

def build(args: Arguments):
    raise AssertionError("not reached")
"""
    answer = salver("run", "--port", "0", "building:build", "size=large", building=source)
    assert_fails(
        answer,
        2,
        "Error: wrong arguments for the application builder 'build':\n"
        "size='large': must be a valid integer, unable to parse string as an integer\n"
        "name: is required\n",
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("status",), "No instance is running. Start one with `salver run module:app`."),
        (("shutdown",), "No instance is running. Start one with `salver run module:app`."),
        (("status", "--instance", "8001"), "No instance named '8001' is running. None is."),
        (("run", "app:app", "--instance", "8001"), "No instance named '8001' is running. None is."),
    ],
)
def test_a_command_that_finds_no_instance(salver: SalverCommand, argv: tuple[str, ...], message: str) -> None:
    assert_fails(salver(*argv), 1, f"Error: {message}\n")


def test_a_wrong_instance_name_is_answered_with_the_right_ones(salver_run: Callable[..., SalverRun]) -> None:
    run = salver_run("app:app", "--port", "0", files={"app.py": APP})
    answer = run.cli("status", "--instance", "elsewhere")
    assert_fails(answer, 1, f"Error: No instance named 'elsewhere' is running.\n  {run.name:<12} {run.url}\n")


# --- the address --------------------------------------------------------------------------------------------


def test_a_port_in_use_says_by_whom(salver: SalverCommand) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        answer = salver("run", "--port", str(port), "app:app")
    assert_fails(
        answer,
        3,
        f"(pid {os.getpid()}): choose another with --port, or stop that process\n",
        f"Error: port {port} on 127.0.0.1 is in use by '",
    )


def test_an_address_that_is_not_ours_to_listen_on(salver: SalverCommand) -> None:
    answer = salver("run", "--host", "192.0.2.1", "--port", "0", "app:app")
    assert_fails(answer, 3, "Error: cannot listen on 192.0.2.1:0: Cannot assign requested address\n")


# --- the same from a script ---------------------------------------------------------------------------------


def test_a_route_that_another_application_has(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    answer = run_python(
        """
from app import app
from salver import serve

serve.start(http_options={"port": 0})
serve.run(app, name="one", route_prefix="/x")
serve.run(app, name="two", route_prefix="/x")
""",
        files={"app.py": APP},
    )
    assert answer.returncode == 1
    assert answer.stderr.rstrip().endswith(
        'ConfigurationError: Prefix /x is being used by application "one". Failed to deploy application "two".'
    )
    assert answer.stderr.count("Traceback") == 1, answer.stderr


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "serve.run(Hello)",
            "TypeError: serve.run takes the Application that `.bind()` returns, but got: Deployment.",
        ),
        ("Hello()", "RuntimeError: Deployments cannot be constructed directly. Use `Hello.bind(...)` to build an"),
        ("serve.run(app, route_prefix='x')", "ConfigurationError: route_prefix='x': must start with '/'"),
        ("serve.run(app, name='')", "ConfigurationError: application name '': must not be empty or contain '#' or"),
        ("serve.status()", "ServeException: No instance is running. Start one with `salver run module:app`."),
        (
            "serve.get_app_handle('a')",
            "ServeException: No instance is running. Start one with `salver run module:app`.",
        ),
        (
            "serve.get_deployment_handle('Hello')",
            "Please specify an application name when getting a deployment handle outside of a deployment.",
        ),
        (
            "serve.start(http_options={'prt': 1})",
            "OptionsError: http_options.prt: there is no such option. Did you mean 'port'?",
        ),
    ],
)
def test_a_wrong_call_in_a_script(
    run_python: Callable[..., subprocess.CompletedProcess[str]], statement: str, message: str
) -> None:
    answer = run_python(
        f"from app import app, unbound as Hello\nfrom salver import serve\n{statement}\n", files={"app.py": APP}
    )
    assert answer.returncode == 1
    assert message in answer.stderr.splitlines()[-1], answer.stderr
    assert answer.stderr.count("Traceback") == 1, answer.stderr
