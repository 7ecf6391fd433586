"""What the control API shows: Ray Serve's documents, events, readiness, and no secrets over the network."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from harness.waiting import eventually
from salver.controller.api_records import Declaration, DeclaredAnswer, StatusAnswer
from salver.controller.build_messages import Mistake
from salver.controller.client import ControlClient, ControlRefused
from salver.controller.documents import instance_details, unready, with_builds
from salver.controller.redaction import REDACTED, redacted, redacted_places
from salver.records import ApplicationSpec, DeploymentId
from salver.serve.schema import ServeInstanceDetails, serve_status
from salver.views import (
    ApplicationView,
    DeploymentView,
    EndedReplica,
    Happening,
    ReplicaView,
    ScalingDecision,
    ScalingView,
)

from .control_scene import INFO, Broken, Build, Server, Waits, application, ask, ask_tcp, constructing

SECRETS = {
    "name": "app",
    "route_prefix": "/",
    "import_path": "module:app",
    "runtime_env": {"env_vars": {"API_KEY": "hunter2"}, "pip": ["--index-url https://me:hunter2@host/simple", "x"]},
    "deployments": [{"name": "d", "ray_actor_options": {"runtime_env": {"env_vars": {"D": "hunter2", "E": ""}}}}],
    "args": {"model": "small"},
}


def with_secrets() -> ApplicationSpec:
    spec = application()
    options = {"ray_actor_options": {"num_cpus": 2, "runtime_env": {"env_vars": {"TOKEN": "hunter2"}}}}
    deployment = msgspec.structs.replace(spec.deployments[0], options=options)
    return msgspec.structs.replace(spec, deployments=(deployment,), config=SECRETS)


def test_the_document_of_ray_serve(client: ControlClient) -> None:
    client.deploy(application(replicas=2))
    client.wait_settled("app", 30)
    details = client.details()
    assert set(details) >= {
        "controller_info",
        "proxy_location",
        "http_options",
        "grpc_options",
        "proxies",
        "applications",
        "target_capacity",
        "target_groups",
        "controller_health_metrics",
        "restores_unset_config_options",
    }
    assert (details["http_options"]["host"], details["http_options"]["port"]) == ("127.0.0.1", 8000)
    assert details["proxies"]["localhost"]["status"] == "STARTING", "the memory engine has none"
    app = details["applications"]["app"]
    assert (app["name"], app["status"], app["source"], app["route_prefix"]) == ("app", "RUNNING", "imperative", "/")
    assert app["deployed_app_config"] is None
    deployment = app["deployments"]["d"]
    assert (deployment["status"], deployment["target_num_replicas"]) == ("HEALTHY", 2)
    assert deployment["deployment_config"]["name"] == "d"
    assert {replica["state"] for replica in deployment["replicas"]} == {"RUNNING"}
    assert {"node_id", "node_ip", "actor_id", "actor_name", "worker_id", "log_file_path", "replica_id", "pid"} <= set(
        deployment["replicas"][0]
    )
    [group] = details["target_groups"]
    assert (group["route_prefix"], group["protocol"], group["app_name"]) == ("/", "HTTP", "app")
    assert group["targets"][0]["port"] == 8000


def test_only_those_that_code_or_a_config_deployed(server: Server, client: ControlClient) -> None:
    client.deploy(msgspec.structs.replace(application("from-config", "/c"), config={"import_path": "m:a"}))
    client.deploy(application("from-code", "/"))
    assert set(client.details()["applications"]) == {"from-config", "from-code"}
    assert set(client.details("declarative")["applications"]) == {"from-config"}
    assert set(client.details("IMPERATIVE")["applications"]) == {"from-code"}
    assert set(ask(server, "GET", "/api/serve/applications/?api_type=")[2]["applications"]) == {
        "from-config",
        "from-code",
    }
    for wrong in ("unknown", "rubbish"):
        with pytest.raises(ControlRefused, match="api_type must be one of declarative, imperative") as refused:
            client.details(wrong)
        assert refused.value.status == 400


def test_no_secret_goes_over_the_network(server: Server, client: ControlClient) -> None:
    client.deploy(with_secrets())
    client.wait_settled("app", 30)
    server.configs.taken = {"applications": [SECRETS], "http_options": {"ssl_keyfile_password": "hunter2"}}
    for endpoint in server.api.endpoints():
        if endpoint.method == "GET":
            path = endpoint.path.replace("{check}", "known")
            answer = ask_tcp(server, "GET", path)
            assert answer.status == 200, path
            assert "hunter2" not in msgspec.json.encode(answer.body).decode(), path
    app = ask_tcp(server, "GET", "/api/serve/applications/").body["applications"]["app"]
    assert app["deployed_app_config"]["runtime_env"]["env_vars"] == {"API_KEY": REDACTED}
    options = app["deployments"]["d"]["deployment_config"]["ray_actor_options"]
    assert options == {"num_cpus": 2, "runtime_env": {"env_vars": {"TOKEN": REDACTED}}}
    assert app["deployments"]["d"]["required_resources"] == {"CPU": 2}
    here = client.details()["applications"]["app"]
    assert here["deployed_app_config"] == SECRETS, "its user sees them, as in /proc"


def test_what_was_redacted_cannot_be_deployed_by_mistake(server: Server) -> None:
    config = {"applications": [redacted(SECRETS)]}
    for method, path in (("PUT", "/api/serve/applications/"), ("POST", "/api/v1/checks")):
        answer = ask_tcp(server, method, path, msgspec.json.encode(config))
        assert answer.status == 400
        assert answer.body["detail"].startswith("applications[0].runtime_env.env_vars.API_KEY is what we show")
    assert server.configs.taken is None
    assert server.configs.checks.begun == []


def test_redaction() -> None:
    value: Any = {"ssl_keyfile_password": "x", "a": [{"env_vars": {"B": "c"}}, "http://u:p@h", 1, None, True]}
    assert redacted(value) == {
        "ssl_keyfile_password": REDACTED,
        "a": [{"env_vars": {"B": REDACTED}}, f"http://{REDACTED}@h", 1, None, True],
    }
    assert redacted({"ssl_keyfile_password": None, "env_vars": []}) == {"ssl_keyfile_password": None, "env_vars": []}
    assert redacted_places({"a": [1, {"b": REDACTED}], "c": REDACTED}) == [".a[1].b", ".c"]
    assert redacted_places(SECRETS) == []


def test_a_password_is_shown_to_nobody(server: Server, client: ControlClient) -> None:
    app = msgspec.structs.replace(application(), config={"http_options": {"ssl_keyfile_password": "hunter2"}})
    client.deploy(app)
    assert "hunter2" not in str(client.details())
    assert "hunter2" not in str(client.status())
    assert server.controller.views()[0].config == app.config


def test_a_config_is_taken_or_refused_with_all_problems(server: Server, client: ControlClient) -> None:
    config = {"applications": [{"import_path": "m:a"}]}
    assert client.declare(config) == DeclaredAnswer(("tracing_config has no effect",), 7.5)
    assert client.status().declaration == Declaration(7.5)
    assert server.configs.taken == config
    with pytest.raises(ControlRefused, match="applications: is missing\nhtp_options: is unknown") as refused:
        client.declare({"htp_options": {}})
    assert refused.value.problems == ("applications: is missing", "htp_options: is unknown")
    assert refused.value.status == 400
    for body in (b"", b"[]", b"1", b"{", b"\xff", b"[" * 100_000, b'{"a": 1} x'):
        status, kind, problem = ask(server, "PUT", "/api/serve/applications/", body)
        assert (status, kind) == (400, "application/problem+json"), body
        assert problem["detail"].startswith("The body is not what is expected here"), body
    status, kind, _ = ask(server, "PUT", "/api/serve/applications/", b" " * (1024 * 1024 + 1))
    assert (status, kind) == (413, "application/problem+json")


def test_applications_that_are_being_built_are_shown(server: Server, client: ControlClient) -> None:
    server.configs.taken = {"applications": [{"name": "new", "route_prefix": "/new"}, {"import_path": "m:a"}]}
    server.configs.states = {
        "new": Build("DEPLOYING", "installs numpy"),
        "default": Build("DEPLOY_FAILED", "ModuleNotFoundError: No module named 'm'"),
    }
    shown = {view.name: (view.status, view.message, view.route_prefix) for view in client.status().applications}
    assert shown == {
        "new": ("DEPLOYING", "installs numpy", "/new"),
        "default": ("DEPLOY_FAILED", "ModuleNotFoundError: No module named 'm'", "/"),
    }
    assert ask(server, "GET", "/readyz")[0] == 503
    app = client.details()["applications"]["default"]
    assert (app["status"], app["source"], app["deployments"]) == ("DEPLOY_FAILED", "declarative", {})


def test_waiting_for_an_application_includes_its_build(server: Server, client: ControlClient) -> None:
    server.configs.states = {"new": Build("DEPLOYING", "installs numpy")}
    waited = client.wait_settled("new", 0.01)
    assert waited is not None
    assert waited.status == "DEPLOYING"

    def fail() -> None:
        server.configs.states = {"new": Build("DEPLOY_FAILED", "no numpy")}
        server.controller.tell(Happening("deploy", "could not be built", "new"))

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.wait_settled, "new", 60)
        server.call(fail)
        waited = waiting.result(30)
    assert waited is not None
    assert (waited.status, waited.message) == ("DEPLOY_FAILED", "no numpy")


def view(name: str = "app", status: str = "RUNNING", **deployment: Any) -> ApplicationView:
    settings: dict[str, Any] = {
        "status": "HEALTHY",
        "status_trigger": "CONFIG_UPDATE_COMPLETED",
        "message": "",
        "target_num_replicas": 1,
        "replica_states": {"RUNNING": 1},
        "replicas": (),
        "options": {},
        **deployment,
    }
    return ApplicationView(name, status, "", "/", "d", 0.0, (DeploymentView("d", **settings),))


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        (view(), ""),
        (view(status="DEPLOYING", target_num_replicas=3, replica_states={"RUNNING": 1, "STARTING": 2}), ""),
        (view(status="DEPLOYING", replica_states={"RECOVERING": 1}), ""),
        (view(status="DEPLOYING", replica_states={"UPDATING": 1, "STOPPING": 1}), ""),
        (view(status="DEPLOYING", replica_states={"STOPPING": 1}), "deployment d has no running replica (HEALTHY)"),
        (view(status="DEPLOY_FAILED", replica_states={"RUNNING": 1}), ""),
        (view(target_num_replicas=0, replica_states={}), ""),
        (view(replica_states={}), "deployment d has no running replica (HEALTHY)"),
        (view(replica_states={"STARTING": 1}, status_trigger="DELETING"), ""),
        (view(status="DELETING"), "it is being deleted"),
    ],
)
def test_readiness(shown: ApplicationView, reason: str) -> None:
    assert unready([shown]) == ({"app": reason} if reason else {})


def test_builds_beside_what_runs() -> None:
    running, leaving = view(), view("leaving", "DELETING")
    builds = {"app": Build("DEPLOY_FAILED", "why"), "leaving": Build("DEPLOYING", "")}
    merged = with_builds([leaving, running], builds, None)
    assert [(each.name, each.status, each.message) for each in merged] == [
        ("app", "DEPLOY_FAILED", "why"),
        ("leaving", "DELETING", ""),
    ]
    assert unready(merged) == {"leaving": "it is being deleted"}, "the old version serves on"


def test_a_deployment_in_full() -> None:
    scaling = ScalingView("UPSCALING", 3.0, 2.0, 4, (ScalingDecision(5.0, "load", 1, 4),), "policy raised")
    replica = ReplicaView("app#d#x", "RUNNING", 12, "v", 1.5, rank=0, gpus=(1,), ongoing=2, rss_bytes=3)
    full = view(
        scaling=scaling,
        replicas=(replica,),
        options={"ray_actor_options": {"num_gpus": 0.5, "memory": 1e9, "resources": {"licence": 1}}},
    )
    details = instance_details(StatusAnswer(INFO, 7, (8, 9), (full,), 50.0), None)
    assert (details.target_capacity, details.proxies["localhost"].pids) == (50.0, (8, 9))
    deployment = details.applications["app"].deployments["d"]
    assert deployment.required_resources == {"GPU": 0.5, "memory": 1e9, "licence": 1.0}
    assert deployment.replicas[0].gpus == (1,)
    scaled = deployment.autoscaling_detail
    assert scaled is not None
    assert msgspec.to_builtins(scaled.decisions[0]) == {
        "timestamp_s": 5.0,
        "reason": "load",
        "prev_num_replicas": 1,
        "curr_num_replicas": 4,
        "policy": None,
    }
    assert (scaled.scaling_status, scaled.errors) == ("UPSCALING", ("policy raised",))


def test_what_calls_what_and_what_has_ended() -> None:
    leaf = DeploymentId("app", "leaf")
    ended = EndedReplica(
        "app#d#x", DeploymentId("app", "d"), "v1", 12, 5.0, 7.5, "exited", "was killed by SIGKILL", "killed", -9
    )
    elsewhere = msgspec.structs.replace(ended, replica_id="app#d#y", pid=None, exit_code=None, logs_dir="/own")
    shown = view(
        calls=(leaf, DeploymentId("other", "m")),
        ended=(ended, elsewhere),
        replicas=(ReplicaView("app#d#z", "RUNNING", 13, "v1", 1.0),),
    )
    answer = StatusAnswer(INFO, 7, (8,), (shown,), logs="/logs")
    document = instance_details(answer, None)
    app = document.applications["app"]
    assert msgspec.json.decode(msgspec.json.encode(app.deployment_topology)) == {
        "app_name": "app",
        "ingress_deployment": "d",
        "nodes": {
            "d": {
                "name": "d",
                "app_name": "app",
                "outbound_deployments": [
                    {"name": "leaf", "app_name": "app"},
                    {"name": "m", "app_name": "other"},
                ],
                "is_ingress": True,
            }
        },
    }
    first, second = app.deployments["d"].recent_dead_replicas
    assert (first.state, first.pid) == ("STOPPED", 12)
    assert (first.start_time_s, first.ended_at_s, first.age_s) == (5.0, 7.5, 2.5)
    assert (first.cause, first.reason, first.exit, first.exit_code) == (
        "exited",
        "was killed by SIGKILL",
        "killed",
        -9,
    )
    assert (first.log_file_path, second.log_file_path) == ("/logs/replica_app_d_x.log", "/own/replica_app_d_y.log")
    assert app.deployments["d"].replicas[0].log_file_path == "/logs/replica_app_d_z.log"
    assert document.controller_info.log_file_path == "/logs/controller_7.log"
    without = instance_details(msgspec.structs.replace(answer, logs=""), None).applications["app"].deployments["d"]
    assert [each.log_file_path for each in without.recent_dead_replicas] == [None, None], "there are no log files"
    parsed = ServeInstanceDetails(**msgspec.to_builtins(document)).applications["app"]
    assert parsed.deployments["d"].recent_dead_replicas[0].exit_code == -9
    assert parsed.deployment_topology is not None
    assert parsed.deployment_topology.nodes["d"].outbound_deployments[1] == {"name": "m", "app_name": "other"}
    building = ApplicationView("b", "DEPLOYING", "", "/b", "", 0.0, ())
    assert (
        instance_details(StatusAnswer(INFO, 7, (), (building,)), None).applications["b"].deployment_topology is None
    )
    overview = serve_status(answer).applications["app"].deployments["d"].recent_dead_replicas
    assert [(each.replica_id, each.cause, each.log_file_path) for each in overview] == [
        ("app#d#x", "exited", "/logs/replica_app_d_x.log"),
        ("app#d#y", "exited", "/own/replica_app_d_y.log"),
    ]


def test_live_and_ready(server: Server, client: ControlClient) -> None:
    assert ask(server, "GET", "/livez")[2] == {"status": "ok"}
    assert ask(server, "GET", "/readyz")[:1] == (200,), "nothing is wanted, nothing is missing"
    client.deploy(application(target=Waits))
    assert constructing.wait(30)
    assert ask(server, "GET", "/livez")[0] == 200
    assert ask(server, "GET", "/readyz")[2] == {"status": "not ready"}
    status, _, body = ask(server, "GET", "/readyz?verbose")
    assert status == 503
    assert body["unready"] == {"app": "deployment d has no running replica (UPDATING)"}
    assert ask_tcp(server, "GET", "/readyz?verbose").body == body
    client.delete("app", 30)
    client.deploy(application(target=Broken))
    client.wait_settled("app", 30)
    assert ask(server, "GET", "/readyz")[0] == 503
    client.deploy(application())
    client.wait_settled("app", 30)
    assert ask(server, "GET", "/readyz?verbose")[2] == {"status": "ok", "unready": {}}


def test_events_are_waited_for(server: Server, client: ControlClient) -> None:
    before = len(client.events())
    last = ask(server, "GET", "/api/v1/events")[2]["last"]
    assert client.events(last) == ()
    asked = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: (asked.set(), client.events(last, 60, "app", "d"))[1])
        assert asked.wait(30)
        history = server.controller.history
        server.call(lambda: history.add(Happening("scale", "another's", "app", "e")))
        server.call(lambda: history.add(Happening("scale", "this one", "app", "d")))
        [found] = waiting.result(30)
    assert (found.kind, found.message, found.number) == ("scale", "this one", last + 2)
    assert len(client.events()) == before + 2
    assert client.events(last + 100, 60) == (), "a number of another life of the instance: answered at once"
    for query in ("after=-1", "after=x", "after=1e3", "wait_s=x", "after=" + "9" * 40):
        assert ask(server, "GET", f"/api/v1/events?{query}")[0] == 400, query


def test_what_clients_of_ray_ask_first(server: Server) -> None:
    answer = ask(server, "GET", "/api/ray/version")[2]
    assert set(answer) >= {"version", "ray_version", "ray_commit", "session_name"}
    assert tuple(map(int, answer["ray_version"].split("."))) >= (1, 12)


def test_the_end_comes_after_the_answer(server: Server, client: ControlClient) -> None:
    client.shutdown_applications()
    eventually("the end is asked for", lambda: server.ends == 1, 30)
    assert client.status().controller_pid == 7


def test_a_config_is_checked_and_then_taken_as_it_was(server: Server, client: ControlClient) -> None:
    config = {"applications": [{"import_path": "m:a"}]}
    name = client.begin_check(config)
    assert server.configs.checks.begun == [config]
    assert server.configs.taken is None
    answer = client.check(name, 0)
    assert answer.mistakes == (Mistake(("applications", 0), "applications[0]: is missing"),)
    client.declare(config, name)
    assert (server.configs.taken, server.configs.built_by) == (config, name)
    with pytest.raises(ControlRefused, match="a later deploy, accepted at") as refused:
        client.declare(config, "overtaken")
    assert refused.value.status == 409
    with pytest.raises(ControlRefused, match="There is no check 'unknown'") as refused:
        client.check("unknown", 0)
    assert refused.value.status == 404
    server.configs.checks.is_full = True
    with pytest.raises(ControlRefused, match="4 configs are being checked") as refused:
        client.begin_check(config)
    assert refused.value.status == 503
