"""Import paths: what they find, and whose fault it is when they find nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from salver.serve.building.builder import build_from_target
from salver.serve.building.import_path import ImportPathError, import_target, user_traceback
from salver.serve.deployment import Application

APP = """
from salver.serve.deployment import deployment

@deployment
class Translator:
    pass

translator_app = Translator.bind()

class Place:
    inner = Translator.bind()

def build(args):
    return Translator.bind()
"""

FAILING = """
def start():
    return {}["key"]

try:
    start()
except KeyError as error:
    raise ValueError("bad") from error
"""

WriteModule = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteModule]:
    """Writes modules into a folder of the user's, which is the current one and first in ``sys.path``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    loaded = set(sys.modules)

    def write_module(path: str, source: str) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
        return file

    yield write_module
    for name in set(sys.modules) - loaded:
        del sys.modules[name]


@pytest.mark.parametrize(
    "import_path",
    [
        "serve_quickstart:translator_app",
        "serve_quickstart.translator_app",
        "serve_quickstart:Place.inner",
        "project.apps.quick:translator_app",
        "project.apps.quick.translator_app",
    ],
)
def test_found(write: WriteModule, import_path: str) -> None:
    write("serve_quickstart.py", APP)
    write("project/apps/quick.py", APP)
    assert isinstance(import_target(import_path), Application)


def test_a_builder_is_found(write: WriteModule) -> None:
    write("serve_quickstart.py", APP)
    assert build_from_target(import_target("serve_quickstart:build"), {}).deployment.name == "Translator"


FORM = "must be of the form 'module:attribute', like 'app:app'"


@pytest.mark.parametrize(
    ("import_path", "problem"),
    [
        ("app", FORM),
        ("", FORM),
        ("app:", FORM),
        (":app", FORM),
        ("app:a:b", FORM),
        ("my-app:app", FORM),
        ("app:a..b", FORM),
        ("app.py:app", "takes a module's name, not a file's: use 'app:app'"),
        ("./sub/app.py:app", "takes a module's name, not a file's: use 'sub.app:app'"),
        ("sub/app:app", "takes a module's name, not a file's: use 'sub.app:app'"),
    ],
)
def test_malformed(import_path: str, problem: str) -> None:
    with pytest.raises(ImportPathError) as caught:
        import_target(import_path)
    assert str(caught.value) == f"import path {import_path!r}: {problem}"


def test_missing_modules(write: WriteModule, tmp_path: Path) -> None:
    write("serve_quickstart.py", APP)
    write("project/__init__.py", "")
    write("project/quick.py", APP)
    places = {
        "serve_quikstart": f" in {tmp_path}. Did you mean 'serve_quickstart'?",
        "zzz": f" in {tmp_path}.",
        "project.quik": " in package 'project'. Did you mean 'project.quick'?",
        "serve_quickstart.more": " in package 'serve_quickstart'.",
    }
    for module, place in places.items():
        with pytest.raises(ImportPathError) as caught:
            import_target(f"{module}:app")
        assert str(caught.value) == f"No module named {module!r}{place}"


@pytest.mark.parametrize(
    ("import_path", "message"),
    [
        (
            "quick:translater_app",
            "Module 'quick' has no attribute 'translater_app'. Did you mean 'translator_app'?",
        ),
        ("quick:x", "Module 'quick' has no attribute 'x'. Applications in it: translator_app."),
        ("quick:Place.inne", "Object 'quick.Place' has no attribute 'inne'. Did you mean 'inner'?"),
        ("quick:translator_app.x", "Object 'quick.translator_app' has no attribute 'x'."),
    ],
)
def test_missing_attributes(write: WriteModule, import_path: str, message: str) -> None:
    write("quick.py", APP)
    with pytest.raises(ImportPathError) as caught:
        import_target(import_path)
    assert str(caught.value) == message


def test_an_unbound_deployment(write: WriteModule) -> None:
    write("serve_quickstart.py", APP)
    with pytest.raises(ImportPathError) as caught:
        import_target("serve_quickstart:Translator")
    assert str(caught.value) == (
        "serve_quickstart:Translator is a Deployment; bind it first: `app = Translator.bind()`"
    )


@pytest.mark.parametrize("missing", ["a_missing_library", "fails.more"])
def test_an_import_that_fails_in_the_users_module_is_the_users_error(write: WriteModule, missing: str) -> None:
    write("fails.py", f"import {missing}\n")
    with pytest.raises(ModuleNotFoundError) as caught:
        import_target("fails:app")
    assert not isinstance(caught.value, ImportPathError)


def test_user_traceback_has_the_users_frames_only(write: WriteModule) -> None:
    failing = write("fails.py", FAILING)
    with pytest.raises(ValueError, match="bad") as caught:
        import_target("fails:app")
    text = user_traceback(caught.value)
    assert text.count(str(failing)) == 3
    assert "importlib" not in text
    assert "salver/serve/building/import_path.py" not in text
    assert "KeyError: 'key'" in text
    assert text.endswith("ValueError: bad\n")


def test_user_traceback_ends_at_the_users_line_when_we_raise(write: WriteModule) -> None:
    failing = write("fails.py", APP + "\nTranslator.options(num_replicas=0)\n")
    with pytest.raises(ValueError, match="num_replicas") as caught:
        import_target("fails:app")
    lines = user_traceback(caught.value).splitlines()
    files = [line for line in lines if line.startswith("  File")]
    assert files[0].startswith(f'  File "{__file__}"')
    assert files[1:] == [f'  File "{failing}", line 16, in <module>']
    assert lines[-1].endswith('num_replicas=0: must be an integer of at least 1, or "auto"')


def test_a_syntax_error_is_file_line_and_caret(write: WriteModule) -> None:
    failing = write("fails.py", "x = 1\ndef f(:\n")
    with pytest.raises(SyntaxError) as caught:
        import_target("fails:app")
    lines = user_traceback(caught.value).splitlines()
    assert lines[0] == f'  File "{failing}", line 2'
    assert lines[1].strip() == "def f(:"
    assert lines[2].strip() == "^"
    assert lines[3] == "SyntaxError: invalid syntax"
    assert len(lines) == 4


def test_a_module_one_folder_further_down_is_hinted_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an archive of a folder, where one of its contents was meant."""
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "nested_module.py").write_text("")
    monkeypatch.setattr("sys.path", [str(tmp_path), *sys.path])
    with pytest.raises(ImportPathError, match="It is in the folder 'top' there, and has to be looked"):
        import_target("nested_module:app")
