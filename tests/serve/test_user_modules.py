"""Which modules belong to an application: those it has loaded, those it will import, those in its own folders."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import salver
from salver.records import CodeContext
from salver.serve.building.user_modules import user_modules

Project = Callable[..., CodeContext]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """``project(files)``: where they are, with ``app`` (``app.py`` or ``app/__init__.py``) imported."""

    def make(files: Mapping[str, str]) -> CodeContext:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        for name in [name for name in sys.modules if name == "app" or name.startswith("app.")]:
            monkeypatch.delitem(sys.modules, name)
        before = set(sys.modules)
        __import__("app")
        for name in set(sys.modules) - before:
            monkeypatch.setitem(sys.modules, name, sys.modules[name])  # so that it is forgotten again
        return CodeContext(tuple(sys.path), str(tmp_path))

    return make


def found(code: CodeContext, base: CodeContext | None = None) -> set[str]:
    """Of the modules below the project's folder."""
    return {name for name, path in user_modules(code, base).items() if path.startswith(f"{code.cwd}/")}


def test_what_is_imported_later_belongs_to_it(project: Project) -> None:
    code = project(
        {
            "app.py": "def later():\n import model\n from package import part, Name\n if 1:\n  import far.away",
            "model.py": "class A:\n    async def f(self):\n        from deeper import thing",
            "deeper.py": "import json, os.path",
            "package/__init__.py": "Name = 1",
            "package/part.py": "def f():\n from . import sibling\n from .sub.leaf import x\n import package.other",
            "package/sibling.py": "",
            "package/other.py": "",
            "package/sub/__init__.py": "",
            "package/sub/leaf.py": "from .. import uncle\nfrom ...package.sub import twig",
            "package/sub/twig.py": "",
            "package/uncle.py": "",
            "far/away.py": "",
            "stranger.py": "",
            "json.py": "",
        }
    )
    package = {"package", "package.part", "package.sibling", "package.other", "package.uncle"}
    below = {"package.sub", "package.sub.leaf", "package.sub.twig"}
    assert found(code) == {"app", "model", "deeper", "far.away"} | package | below
    assert "model" not in sys.modules, "nothing is imported to find out"


def test_a_package_imports_its_own_parts(project: Project) -> None:
    code = project(
        {
            "app/__init__.py": "def f():\n    from . import part",
            "app/part.py": "from .more import x",
            "app/more.py": "",
        }
    )
    assert found(code) == {"app", "app.part", "app.more"}


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n import late",
        "def f():\n\tfrom late import x",
        "def f(): import late",
        "def f(): x = 1; import late",
        "if not True: from late import x",
        "class A:\n  def f(self):\n    try:\n      pass\n    except ValueError:\n      import late",
        "def f(x):\n match x:\n  case 1:\n   import late",
        "async def f():\n async with x:\n  pass\n while 1:\n  pass\n else:\n  import late",
        "def f():\n try:\n  pass\n finally:\n  import \\\n    late",
        "def f(): \\\n import late",
        "def f():\r\n import late\r\n",
    ],
)
def test_wherever_an_import_stands(project: Project, text: str) -> None:
    code = project({"app.py": text, "late.py": ""})
    assert found(code) == {"app", "late"}
    del sys.modules["app"]
    (Path(code.cwd) / "app.py").write_text("def f():\n import between")
    assert found(project({"between.py": text})) == {"app", "between", "late"}


@pytest.mark.parametrize("text", ["def f(:", "x = '\0'", "\xff", "from ....... import x", "from . import *", "("])
def test_whatever_a_source_holds_is_no_error(project: Project, text: str) -> None:
    code = project({"app.py": "def f():\n    import strange", "strange.py": text})
    assert found(code) == {"app", "strange"}


def test_modules_that_import_each_other(project: Project) -> None:
    code = project({"app.py": "def f():\n    import a", "a.py": "import b", "b.py": "import a, app"})
    assert found(code) == {"app", "a", "b"}


def test_what_is_installed_does_not_belong_to_it(project: Project, tmp_path: Path) -> None:
    files = {
        "app.py": "def f():\n import installed, numpy, salver.cli",
        "lib/site-packages/installed.py": "import model",
        "model.py": "",
    }
    code = project(files)
    code = CodeContext((*code.sys_path, str(tmp_path / "lib" / "site-packages")), code.cwd)
    assert found(code) == {"app"}


def test_nothing_of_ours_belongs_to_it(project: Project) -> None:
    """Also where it lies in a folder like any other: a checkout that is installed as an editable package."""
    code = project({"app.py": "from salver import serve\ndef f():\n import salver.cli.main"})
    checkout = Path(salver.__file__).parents[1]
    modules = user_modules(CodeContext((*code.sys_path, str(checkout)), code.cwd))
    assert [name for name in modules if name.partition(".")[0] == "salver"] == []


def test_all_that_is_in_folders_of_its_own_belongs_to_it(project: Project) -> None:
    code = project({"app.py": "", "own/one.py": "", "own/sub/two.py": "", "own/data.csv": "", "beside.py": ""})
    base = CodeContext(code.sys_path, code.cwd)
    own = CodeContext((f"{code.cwd}/own", *code.sys_path), code.cwd)
    assert found(own, base) == {"app", "one", "sub.two"}
    assert found(code, base) == {"app"}


def test_the_first_folder_wins(project: Project) -> None:
    code = project({"app.py": "def f():\n    import model", "first/model.py": "", "second/model.py": ""})
    code = CodeContext((f"{code.cwd}/first", f"{code.cwd}/second", *code.sys_path), code.cwd)
    assert user_modules(code, code)["model"] == f"{code.cwd}/first/model.py"
