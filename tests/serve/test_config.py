"""The option models: the defaults users know, and one message for each thing that is not allowed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from salver.data.http.limits import HTTPLimits
from salver.data.http.options import DEFAULT_PROXY_OPTIONS, ProxyOptions, TLSFiles
from salver.errors import ConfigurationError
from salver.serve.config import (
    AggregationFunction,
    AutoscalingConfig,
    AutoscalingPolicy,
    BackpressureConfig,
    ControllerOptions,
    DeploymentActorConfig,
    GangSchedulingConfig,
    HTTPOptions,
    LoggingConfig,
    ProxyLocation,
    RequestRouterConfig,
    TracingConfig,
    gRPCOptions,
)
from salver.serve.validation import Options, OptionsError
from salver.wire.payload import dump_exception, load_exception


def a_policy() -> None: ...


DEFAULTS: list[tuple[Options, dict[str, Any]]] = [
    (
        AutoscalingConfig(),
        {
            "min_replicas": 1,
            "initial_replicas": None,
            "max_replicas": 1,
            "target_ongoing_requests": 2,
            "look_back_period_s": 30.0,
            "downscale_delay_s": 600.0,
            "downscale_to_zero_delay_s": None,
            "upscale_delay_s": 30.0,
            "aggregation_function": AggregationFunction.MEAN,
        },
    ),
    (AutoscalingConfig.default(), {"min_replicas": 1, "max_replicas": 100, "target_ongoing_requests": 2}),
    (BackpressureConfig(), {"status_code": 503, "retry_after_s": None}),
    (
        HTTPOptions(),
        {
            "host": "127.0.0.1",
            "port": 8000,
            "root_url": "",
            "root_path": "",
            "request_timeout_s": None,
            "keep_alive_timeout_s": 90,
            "ssl_keyfile": None,
            "timeout_status_code": 504,
            "max_body_bytes": 64 * 1024**2,
            "debug": False,
        },
    ),
    (gRPCOptions(), {"port": 9000, "grpc_servicer_functions": [], "enable_reflection": True}),
    (RequestRouterConfig(), {"initial_backoff_s": 0.025, "backoff_multiplier": 2, "max_backoff_s": 0.5}),
    (ControllerOptions(), {"runtime_env": None}),
    (TracingConfig(), {"enabled": False, "exporter_import_path": None, "sampling_ratio": 0.01}),
    (
        GangSchedulingConfig(gang_size=2),
        {"gang_placement_strategy": "PACK", "runtime_failure_policy": "RESTART_GANG"},
    ),
    (DeploymentActorConfig(name="a", actor_class="m:A"), {"init_args": (), "init_kwargs": {}}),
    (
        LoggingConfig(),
        {"encoding": "TEXT", "log_level": "INFO", "logs_dir": None, "enable_access_log": True},
    ),
]


@pytest.mark.parametrize(("model", "expected"), DEFAULTS, ids=lambda value: type(value).__name__)
def test_defaults(model: Options, expected: dict[str, Any]) -> None:
    assert {name: getattr(model, name) for name in expected} == expected


REFUSED: list[tuple[type[Options], dict[str, Any], str]] = [
    (AutoscalingConfig, {"min_replicas": -1}, "min_replicas=-1: must be an integer of at least 0"),
    (AutoscalingConfig, {"min_replicas": True}, "min_replicas=True: must be an integer of at least 0"),
    (
        AutoscalingConfig,
        {"max_replicas": 0, "min_replicas": 0},
        "max_replicas=0: must be an integer of at least 1",
    ),
    (AutoscalingConfig, {"max_replicas": "3"}, "max_replicas='3': must be an integer of at least 1"),
    (AutoscalingConfig, {"min_replicas": 3}, "max_replicas=1: must be at least min_replicas=3"),
    (
        AutoscalingConfig,
        {"max_replicas": 4, "initial_replicas": 5},
        "initial_replicas=5: must be between min_replicas=1 and max_replicas=4",
    ),
    (
        AutoscalingConfig,
        {"target_ongoing_requests": 0},
        "target_ongoing_requests=0: must be a number above 0",
    ),
    (
        AutoscalingConfig,
        {"look_back_period_s": float("nan")},
        "look_back_period_s=nan: must be a number above 0",
    ),
    (AutoscalingConfig, {"upscale_delay_s": -1}, "upscale_delay_s=-1: must be a number of at least 0"),
    (
        AutoscalingConfig,
        {"aggregation_function": "median"},
        'aggregation_function=\'median\': must be "mean", "max" or "min"',
    ),
    (
        AutoscalingConfig,
        {"policy": {"policy_kwargs": {"x": {1}}}},
        "policy.policy_kwargs is not JSON-serializable: Object of type set is not JSON serializable",
    ),
    (
        AutoscalingConfig,
        {"mxa_replicas": 2},
        "mxa_replicas: there is no such option. Did you mean 'max_replicas'?",
    ),
    (
        AutoscalingPolicy,
        {"policy_function": 3},
        "policy_function=3: must be an import path 'module:name', a class or a function",
    ),
    (BackpressureConfig, {"status_code": 500}, "status_code=500: must be 503 or 429"),
    (BackpressureConfig, {"retry_after_s": -1}, "retry_after_s=-1: must be a number of at least 0, or None"),
    (
        HTTPOptions,
        {"middlewares": [print]},
        "middlewares: are not supported here; add them to the ASGI application of your ingress deployment",
    ),
    (HTTPOptions, {"num_cpus": 1}, "num_cpus=1: is not supported, proxies reserve no CPUs"),
    (HTTPOptions, {"port": 65536}, "port=65536: must be a port number, 0 (any free port) to 65535"),
    (HTTPOptions, {"host": ""}, "host='': must be a host name or an address"),
    (
        HTTPOptions,
        {"location": "Moon"},
        'location=\'Moon\': must be "Disabled", "HeadOnly", "EveryNode" or None',
    ),
    (HTTPOptions, {"request_timeout_s": 0}, "request_timeout_s=0: must be a number above 0, or None"),
    (HTTPOptions, {"ssl_keyfile": "k"}, "ssl_keyfile and ssl_certfile: must be given together"),
    (HTTPOptions, {"ssl_ca_certs": "c"}, "ssl_ca_certs: needs ssl_keyfile and ssl_certfile"),
    (HTTPOptions, {"root_path": "a"}, "root_path='a': must be a path that begins with '/', or nothing"),
    (HTTPOptions, {"root_path": "/a b"}, "root_path='/a b': must be a path that begins with '/', or nothing"),
    (HTTPOptions, {"root_path": "/a?b"}, "root_path='/a?b': must be a path that begins with '/', or nothing"),
    (HTTPOptions, {"timeout_status_code": 500}, "timeout_status_code=500: must be 504 or 408"),
    (HTTPOptions, {"max_body_bytes": 0}, "max_body_bytes=0: must be an integer of at least 1"),
    *(
        (
            HTTPOptions,
            {"debug": True, "host": host},
            f"debug=True: shows clients tracebacks, so needs a loopback host, not {host!r}",
        )
        for host in ("0.0.0.0", "::", "example.org", "192.168.0.1", "127.0.0.1.example.org")
    ),
    (TracingConfig, {"sampling_ratio": 1.5}, "sampling_ratio=1.5: must be a number from 0 to 1"),
    (
        gRPCOptions,
        {"grpc_servicer_functions": "f"},
        "grpc_servicer_functions='f': must be a list of import paths",
    ),
    (
        ControllerOptions,
        {"runtime_env": {"pip": []}},
        "runtime_env={'pip': []}: must be {\"env_vars\": {name: value}} with strings, or None",
    ),
    (GangSchedulingConfig, {}, "gang_size: is required"),
    (
        GangSchedulingConfig,
        {"gang_size": 2, "gang_placement_strategy": "NEAR"},
        'gang_placement_strategy=\'NEAR\': must be "PACK" or "SPREAD"',
    ),
    (DeploymentActorConfig, {"name": "", "actor_class": "m:A"}, "name='': must be a non-empty string"),
    (LoggingConfig, {"encoding": "XML"}, 'encoding=\'XML\': must be "TEXT" or "JSON"'),
    (
        LoggingConfig,
        {"log_level": "loud"},
        "log_level='loud': must be a level of logging, like \"INFO\" or 20",
    ),
    (LoggingConfig, {"log_levle": 20}, "log_levle: there is no such option. Did you mean 'log_level'?"),
]


@pytest.mark.parametrize(("model", "values", "message"), REFUSED)
def test_refused(model: type[Options], values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError) as caught:
        model(**values)
    assert str(caught.value) == message
    assert isinstance(caught.value, ConfigurationError)
    assert isinstance(caught.value, ValueError)


def test_every_problem_is_told_at_once_and_survives_pickling() -> None:
    with pytest.raises(OptionsError) as caught:
        HTTPOptions(port=-1, keep_alive_timeout_s=0)
    problems = (
        "port=-1: must be a port number, 0 (any free port) to 65535",
        "keep_alive_timeout_s=0: must be a number above 0",
    )
    assert caught.value.problems == problems
    copy = load_exception(dump_exception(caught.value))
    assert isinstance(copy, OptionsError)
    assert copy.problems == problems


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(OptionsError) as caught:
        HTTPOptions(port="9" * 1000)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


def test_restart_replica_is_not_implemented() -> None:
    with pytest.raises(NotImplementedError, match='is not implemented; use "RESTART_GANG"'):
        GangSchedulingConfig(gang_size=1, runtime_failure_policy="RESTART_REPLICA")


def test_numpy_scalars_are_numbers() -> None:
    config = AutoscalingConfig(
        max_replicas=np.int64(3),  # type: ignore[arg-type]
        target_ongoing_requests=np.float32(1.5),  # type: ignore[arg-type]
        policy={"policy_kwargs": {"weights": [np.float64(0.5)]}},  # type: ignore[arg-type]
    )
    assert type(config.max_replicas) is int
    assert config.target_ongoing_requests == 1.5
    assert config.model_dump(mode="json")["policy"]["policy_kwargs"] == {"weights": [0.5]}


def test_classes_and_functions_are_shown_as_import_strings() -> None:
    policy = AutoscalingPolicy(policy_function=a_policy)
    assert policy.policy_function is a_policy
    assert policy.model_dump(mode="json")["policy_function"] == f"{__name__}:a_policy"
    actor = DeploymentActorConfig(name="a", actor_class=dict, init_args=({1},), init_kwargs={"k": {2}})
    assert actor.model_dump(mode="json") == {
        "name": "a",
        "actor_class": "builtins:dict",
        "init_args": ["{1}"],
        "init_kwargs": {"k": "{2}"},
        "actor_options": {},
    }


def test_models_cannot_be_changed() -> None:
    options = HTTPOptions()
    with pytest.raises(ValueError, match="frozen"):
        options.port = 1


def test_enumerations_take_their_names() -> None:
    assert HTTPOptions(location="HeadOnly").location is ProxyLocation.HeadOnly  # type: ignore[arg-type]
    assert AutoscalingConfig(aggregation_function="max").aggregation_function is AggregationFunction.MAX  # type: ignore[arg-type]
    assert LoggingConfig(log_level="debug").log_level == "DEBUG"


def test_the_password_is_not_shown() -> None:
    options = HTTPOptions(ssl_keyfile="k", ssl_certfile="c", ssl_keyfile_password="secret")
    assert "secret" not in repr(options)
    assert "secret" not in repr(options.for_proxies())


def test_http_options_as_the_proxies_get_them() -> None:
    assert HTTPOptions().for_proxies() == DEFAULT_PROXY_OPTIONS
    options = HTTPOptions(
        host="::1",
        root_path="/outside/",
        request_timeout_s=2,
        keep_alive_timeout_s=3,
        timeout_status_code=408,
        max_body_bytes=4,
        debug=True,
        ssl_certfile="c",
        ssl_keyfile="k",
        ssl_keyfile_password="p",
        ssl_ca_certs="a",
    )
    assert options.for_proxies() == ProxyOptions(
        limits=HTTPLimits(body=4, keep_alive_timeout_s=3),
        request_timeout_s=2,
        timeout_status=408,
        root_path="/outside",
        debug=True,
        tls=TLSFiles("c", "k", "p", "a"),
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1"])
def test_debug_is_for_loopback_hosts(host: str) -> None:
    assert HTTPOptions(host=host, debug=True).for_proxies().debug
