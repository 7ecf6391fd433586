"""What only building a config shows: found before anything is changed, by the instance or by the command itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.instance import SalverRun

from .progress import without_progress

WITHIN_S = 60.0
Run = Callable[..., SalverRun]

SHOP = """
from pydantic import BaseModel
from salver import serve

@serve.deployment
class Pricer:
    def __call__(self, request):
        return "price"

class Arguments(BaseModel):
    size: int

app = Pricer.bind()
number = 5

def build(arguments: Arguments):
    return app

def policy(context):
    return 1, {}
"""
RIGHT = """\
applications:
  - {name: shop, route_prefix: /shop, import_path: 'shop:app'}
  - {name: other, route_prefix: /other, import_path: 'shop:app'}
"""
WRONG = """\
applications:
  - name: a
    route_prefix: /a
    import_path: shop:app
    deployments:
      - name: Pricez
        num_replicas: 2
  - name: b
    route_prefix: /b
    import_path: shpp:app
  - name: c
    route_prefix: /c
    import_path: shop:aapp
  - name: d
    route_prefix: /d
    import_path: shop:number
  - name: e
    route_prefix: /e
    import_path: shop:build
    args: {size: many}
  - name: f
    route_prefix: /f
    import_path: shop:app
    runtime_env:
      py_modules: [nowhere]
  - name: g
    route_prefix: /g
    import_path: shop:app
    deployments:
      - name: Pricer
        ray_actor_options:
          runtime_env: {working_dir: nowhere}
  - name: h
    route_prefix: /h
    import_path: shop:app
    autoscaling_policy: {policy_function: "shop:polcy"}
  - name: i
    route_prefix: /i
    import_path: shop:app
    deployments: [{name: Pricer, user_config: {a: 1}}]
"""
A = "applications"
TOLD = [
    rf"wrong.yaml:6:15: {A}\[0\].deployments\[0\].name='Pricez': the application has none .* Did you mean 'Pricer'\?",
    rf"wrong.yaml:10:18: {A}\[1\].import_path='shpp:app': No module named 'shpp' in .*\. Did you mean 'shop'\?",
    rf"wrong.yaml:13:18: {A}\[2\].import_path='shop:aapp': Module 'shop' has no attribute .* Did you mean 'app'\?",
    rf"wrong.yaml:16:18: {A}\[3\].import_path='shop:number': Expected a built Serve application .*",
    rf"wrong.yaml:20:18: {A}\[4\].args.size='many': must be a valid integer.*",
    rf"wrong.yaml:25:20: {A}\[5\].runtime_env.py_modules\[0\]='.*/nowhere': there is no .*/nowhere.*",
    rf"wrong.yaml:32:38: {A}\[6\].*.ray_actor_options.runtime_env.working_dir='nowhere': there is no .*",
    rf"wrong.yaml:36:43: {A}\[7\].autoscaling_policy.policy_function='shop:polcy': .* Did you mean 'policy'\?",
    rf"wrong.yaml:40:47: {A}\[8\].deployments\[0\].user_config: .* missing reconfigure method",
    r"Error: wrong.yaml is wrong; nothing was started or changed\.",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "right.yaml").write_text(RIGHT)
    (tmp_path / "wrong.yaml").write_text(WRONG)
    (tmp_path / "raises.py").write_text("raise RuntimeError('not today')\n")
    (tmp_path / "raises.yaml").write_text("applications: [{name: new, import_path: 'raises:app'}]\n")
    (tmp_path / "hangs.py").write_text("import signal\nsignal.pause()\n")
    (tmp_path / "hangs.yaml").write_text("applications: [{name: new, import_path: 'hangs:app'}]\n")
    return tmp_path


def check_that_it_is_told(output: str) -> None:
    """All of ``TOLD``, in that order."""
    lines = without_progress(output)
    assert len(lines) == len(TOLD), lines
    for line, expected in zip(lines, TOLD, strict=True):
        assert re.fullmatch(expected, line), line


def what_runs(run: SalverRun) -> dict[str, float]:
    return {name: each["last_deployed_time_s"] for name, each in run.status()["applications"].items()}


def test_what_is_wrong_is_told_with_its_place_and_changes_nothing(salver_start: Run, folder: Path) -> None:
    run = salver_start("--foreground")
    assert run.cli("deploy", "right.yaml", timeout=WITHIN_S).returncode == 0
    before, replicas = what_runs(run), run.pids()["replica"]
    for flags in ((), ("--dry-run",)):
        answer = run.cli("deploy", "wrong.yaml", *flags, timeout=WITHIN_S)
        assert (answer.returncode, answer.stdout) == (2, ""), answer.stderr
        check_that_it_is_told(answer.stderr)

    raises = run.cli("deploy", "raises.yaml", timeout=WITHIN_S)
    assert raises.returncode == 1, "it is not the file that is wrong"
    assert "raises.yaml:1:41: applications[0].import_path='raises:app': failed:\nTraceback" in raises.stderr
    assert "RuntimeError: not today\nError: raises.yaml cannot be deployed; nothing was" in raises.stderr

    here = {"XDG_RUNTIME_DIR": str(run.runtime)}
    interrupted = SalverRun.launch("salver", "deploy", "hangs.yaml", cwd=folder, env=here)
    interrupted.wait_for_output("new: importing hangs:app", WITHIN_S)
    interrupted.interrupt()
    assert interrupted.wait(WITHIN_S) == 130
    assert interrupted.output().endswith("Nothing was changed.\n")

    assert (what_runs(run), run.pids()["replica"]) == (before, replicas)
    assert run.cli("events").stdout.count("config accepted") == 1

    unbuilt = run.cli("deploy", "raises.yaml", "--no-wait", timeout=WITHIN_S)
    assert (unbuilt.returncode, what_runs(run).keys()) == (0, {"new"}), "it was accepted as it is"


def test_a_dry_run_needs_no_instance(folder: Path) -> None:
    wrong = SalverRun.launch("salver", "deploy", "wrong.yaml", "--dry-run", cwd=folder)
    assert wrong.wait(WITHIN_S) == 2
    check_that_it_is_told(wrong.output())
    right = SalverRun.launch("salver", "deploy", "right.yaml", "--dry-run", cwd=folder)
    assert (right.wait(WITHIN_S), without_progress(right.output())) == (0, ["right.yaml is in order."])


def test_run_tells_it_and_starts_nothing_that_stays(folder: Path) -> None:
    (folder / "wrong.yaml").write_text("http_options: {port: 0}\n" + RIGHT.replace("shop:app", "shop:aapp", 1))
    run = SalverRun.launch("salver", "run", "wrong.yaml", cwd=folder)
    assert run.wait(WITHIN_S) == 2
    assert "wrong.yaml:3:52: applications[0].import_path='shop:aapp': Module 'shop' has no attribute" in run.output()
    assert not list(run.runtime.glob("salver/[0-9]*"))
