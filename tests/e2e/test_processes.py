"""What an instance is made of: which processes, what they are called, how they are tied together."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Callable

from harness.instance import SalverRun
from harness.processes import title

TWO_REPLICAS = """
import os
from salver import serve

@serve.deployment(num_replicas=2)
class Greeter:
    def __call__(self, request):
        return str(os.getpid())

app = Greeter.bind()
"""


def test_every_process_is_named_and_reported(salver_run: Callable[..., SalverRun]) -> None:
    run = salver_run("app:app", "--port", "0", files={"app.py": TWO_REPLICAS})
    pids = run.pids()
    state = run.status()

    instance = state["instance"]
    assert pids["supervisor"] == [instance["supervisor_pid"]]
    assert pids["controller"] == [instance["controller_pid"]]
    assert pids["proxy"] == instance["proxy_pids"]
    replicas = state["applications"]["default"]["deployments"]["Greeter"]["replicas"]
    assert sorted(pids["replica"]) == sorted(each["pid"] for each in replicas)
    assert {title(each["pid"]) for each in replicas} == {f"salver: replica {each['replica_id']}" for each in replicas}
    assert all(each["replica_id"].startswith("default#Greeter#") for each in replicas)
    assert title(instance["controller_pid"]) == "salver: controller"
    assert title(instance["supervisor_pid"]) == f"salver: supervisor {run.name}"
    assert [title(pid) for pid in instance["proxy_pids"]] == ["salver: proxy"]
    assert {pid for group in pids.values() for pid in group} == set(run.processes())


def test_every_process_but_the_command_leads_a_session_of_its_own(salver_run: Callable[..., SalverRun]) -> None:
    run = salver_run("app:app", "--port", "0", files={"app.py": TWO_REPLICAS})
    assert os.getsid(run.cli_pid) == os.getsid(0), "it stays in its terminal's session, for Ctrl-C to reach it"
    for pid in run.processes():
        if pid != run.cli_pid:
            assert os.getsid(pid) == pid
            assert os.getpgid(pid) == pid


def test_the_work_is_shared_by_the_replicas(salver_run: Callable[..., SalverRun]) -> None:
    run = salver_run("app:app", "--port", "0", files={"app.py": TWO_REPLICAS})
    answers = {int(urllib.request.urlopen(run.url, timeout=10).read()) for _ in range(100)}
    assert answers == set(run.pids()["replica"])
