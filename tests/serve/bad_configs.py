"""Config files with one mistake each, and what is said about it: from its beginning, whole where it is short."""

from __future__ import annotations

APP = "applications:\n- import_path: a:app\n"


def in_app(text: str) -> str:
    """A file whose one application also says ``text``, from line 3 on."""
    return APP + "".join(f"  {line}\n" for line in text.splitlines())


def in_deployment(text: str) -> str:
    """A file whose one deployment also says ``text``, from line 5 on."""
    return in_app("deployments:\n- name: D\n" + "".join(f"  {line}\n" for line in text.splitlines()))


D = "applications[0].deployments[0]"

BAD: list[tuple[str, str]] = [
    # --- YAML
    ("", "f:1:1: must be a mapping with the key 'applications'"),
    ("- a", "f:1:1: must be a mapping with the key 'applications'"),
    ("just text", "f:1:1: must be a mapping with the key 'applications'"),
    ("a: b: c", "f:1:5: is not valid YAML: mapping values are not allowed in this context"),
    ("a: [1", "f:2:1: is not valid YAML: did not find expected ',' or ']' (while parsing a flow sequence)"),
    ("a: 'b", "f:1:6: is not valid YAML: found unexpected end of stream (while scanning a quoted scalar)"),
    ("a: *b", "f:1:4: is not valid YAML: found undefined alias"),
    (
        "a: 1\n--- \nb: 2",
        "f:2:1: is not valid YAML: but found another document (expected a single document in the stream)",
    ),
    ("a: \x00", "f:1:1: is not valid YAML: control characters are not allowed"),
    ("[" * 40, "f:1:33: values are nested more than 32 deep"),
    (f"a: &a [{'x, ' * 9}x]\nb: [{'*a, ' * 100}*a]", "f:2:405: there are more than 100 aliases"),
    (
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
        ),
        "f:1:10: there are more than 100000 values once aliases are expanded",
    ),
    (
        f"a: &a {'x' * 50_000}\nb: [{', '.join(['*a'] * 99)}]",
        "f:1:4: there are more than 4194304 characters of values in all",
    ),
    ("a: &a [*a]", "f:1:4: values are nested more than 32 deep once aliases are expanded"),
    (APP + "applications: []", "f:3:1: applications: is there twice, first in line 1"),
    (in_deployment("num_replicas: 1\nnum_replicas: 2"), f"f:6:5: {D}.num_replicas: is there twice, first in line 5"),
    (
        in_app("args: {x: !!python/object:os.system {}}"),
        "f:3:13: applications[0].args.x: the tag python/object:os.system is not allowed",
    ),
    (in_app("args: {x: !mine 1}"), "f:3:13: applications[0].args.x: '1' cannot be read as !mine"),
    (in_app("args: {x: !!set {a}}"), "f:3:13: applications[0].args.x: the tag set is not allowed"),
    (
        in_app("args: {x: 2026-01-01}"),
        "f:3:13: applications[0].args.x: '2026-01-01' is a timestamp: put it in quotes if a text is meant",
    ),
    (in_app("args: {x: 2026-13-41}"), "f:3:13: applications[0].args.x: '2026-13-41' cannot be read as timestamp"),
    (
        in_app("args: {x: !!binary YQ==}"),
        "f:3:13: applications[0].args.x: 'YQ==' is a binary: put it in quotes if a text is meant",
    ),
    (in_app("args: {x: .inf}"), "f:3:13: applications[0].args.x: '.inf' is not a finite number"),
    (in_app("args: {x: .nan}"), "f:3:13: applications[0].args.x: '.nan' is not a finite number"),
    (
        in_app("args: {x: 99999999999999999999}"),
        "f:3:13: applications[0].args.x: '99999999999999999999' is too large a number",
    ),
    (in_app("args: {[1]: 2}"), "f:3:10: applications[0].args: a key must be a text, not a list or a mapping"),
    (in_app("args: {<<: 1}"), "f:3:14: applications[0].args: << takes a mapping, or a list of mappings"),
    # --- the whole
    ("{}", "f:1:1: applications: is required"),
    ("applications:", "f:1:14: applications=None: must be a list"),
    ("applications: {}", "f:1:15: applications={}: must be a list"),
    (
        "application: []",
        "f:1:1: applications: is required\nf:1:1: application: there is no such option. Did you mean 'applications'?",
    ),
    ("applications: [1]", "f:1:16: applications[0]=1: must be a mapping of names to values"),
    (APP + "proxy_location: Moon", 'f:3:17: proxy_location=\'Moon\': must be "Disabled", "HeadOnly" or "EveryNode"'),
    (APP + "target_capacity: 101", "f:3:18: target_capacity=101: must be a percentage from 0 to 100, or null"),
    (APP + "target_capacity: -1", "f:3:18: target_capacity=-1: must be a percentage from 0 to 100, or null"),
    (
        APP + "http_options: {port: 99999}",
        "f:3:22: http_options.port=99999: must be a port number, 0 (any free port) to 65535",
    ),
    (APP + "http_options: {prot: 1}", "f:3:16: http_options.prot: there is no such option. Did you mean 'port'?"),
    (
        APP + "http_options: {ssl_keyfile: k}",
        "f:3:29: http_options.ssl_keyfile and ssl_certfile: must be given together",
    ),
    (APP + "grpc_options: 3", "f:3:15: grpc_options=3: must be a mapping of names to values"),
    (APP + "logging_config: {encoding: XML}", 'f:3:28: logging_config.encoding=\'XML\': must be "TEXT" or "JSON"'),
    (
        APP + "tracing_config: {sampling_ratio: 2}",
        "f:3:34: tracing_config.sampling_ratio=2: must be a number from 0 to 1",
    ),
    # --- an application
    ("applications:\n- name: a", "f:2:3: applications[0].import_path: is required"),
    (
        "applications:\n- import_path: 3",
        "f:2:16: applications[0].import_path=3: must be an import path 'module:attribute'",
    ),
    (
        "applications:\n- import_path: app",
        "f:2:16: applications[0].import_path is wrong: import path 'app': must be of the form 'module:attribute'",
    ),
    (
        "applications:\n- import_path: ./app.py:app",
        "f:2:16: applications[0].import_path is wrong: import path './app.py:app': takes a module's name",
    ),
    (
        in_app("name: a#b"),
        "f:3:9: applications[0].name is wrong: application name 'a#b': must not be empty or contain '#' or '/'",
    ),
    (
        in_app("name: ''"),
        "f:3:9: applications[0].name is wrong: application name '': must not be empty or contain '#' or '/'",
    ),
    (in_app("name: 3"), "f:3:9: applications[0].name=3: must be a non-empty string without '#' and '/'"),
    (
        in_app("route_prefix: x"),
        "f:3:17: applications[0].route_prefix is wrong: route_prefix='x': must start with '/'",
    ),
    (
        in_app("route_prefix: /x/"),
        "f:3:17: applications[0].route_prefix is wrong: route_prefix='/x/': must not end with '/', unless it is '/'",
    ),
    (
        in_app("importpath: a:b"),
        "f:3:3: applications[0].importpath: there is no such option. Did you mean 'import_path'?",
    ),
    (in_app("args: [1]"), "f:3:9: applications[0].args=[1]: must be a dict with string keys"),
    (
        in_app("external_scaler_enabled: maybe"),
        "f:3:28: applications[0].external_scaler_enabled='maybe': must be True or False",
    ),
    (
        in_app("runtime_env: {conda: x}"),
        (
            "f:3:17: applications[0].runtime_env.conda: is not supported by Salver: list the packages in 'pip',"
            " or start Salver in the conda environment"
        ),
    ),
    (
        in_app("runtime_env:\n  env_vars: {A: 1, B=C: x}\n  work_dir: .\n  pip: {packages: [x, 1], pip_chek: true}"),
        (
            "f:4:19: applications[0].runtime_env.env_vars.A=1: must be a string\n"
            "f:4:22: applications[0].runtime_env.env_vars.B=C: is no name of a variable\n"
            "f:5:5: applications[0].runtime_env.work_dir: there is no such key. Did you mean 'working_dir'?\n"
            "f:6:25: applications[0].runtime_env.pip.packages[1]=1: must be a line of text\n"
            "f:6:29: applications[0].runtime_env.pip.pip_chek: there is no such key. Did you mean 'pip_check'?"
        ),
    ),
    (
        in_app("runtime_env: {pip: {pip_check: true}}"),
        "f:3:22: applications[0].runtime_env.pip.packages: is required",
    ),
    (
        APP + "- import_path: b:app\n  route_prefix: /b",
        "f:3:3: applications[1].name='default': must be different from that of applications[0]",
    ),
    (
        APP + "- import_path: b:app\n  name: b",
        "f:3:3: applications[1].route_prefix='/': must be different from that of applications[0]",
    ),
    # --- a deployment
    (in_app("deployments: 3"), "f:3:16: applications[0].deployments=3: must be a list"),
    (in_app("deployments:\n- num_replicas: 1"), f"f:4:5: {D}.name: is required"),
    (in_app("deployments:\n- name: null"), f"f:4:11: {D}.name: is required"),
    (
        in_app("deployments:\n- name: D\n- name: D"),
        "f:5:11: applications[0].deployments[1].name='D': must be different from that of deployments[0]",
    ),
    (in_deployment("num_replicas: 0"), f'f:5:19: {D}.num_replicas=0: must be an integer of at least 1, or "auto"'),
    (
        in_deployment("num_replicas: '2'"),
        f"f:5:19: {D}.num_replicas='2': must be an integer of at least 1, or \"auto\"",
    ),
    (
        in_deployment("num_replica: 1"),
        f"f:5:5: {D}.num_replica: there is no such option. Did you mean 'num_replicas'?",
    ),
    (
        in_deployment("max_ongoing_requests: 1.5"),
        f"f:5:27: {D}.max_ongoing_requests=1.5: must be an integer of at least 1",
    ),
    (
        in_deployment("max_rss: much"),
        f"f:5:14: {D}.max_rss='much': must be a number of bytes of at least 1, a text like \"2 GiB\", or None",
    ),
    (
        in_deployment("ray_actor_options:\n  num_gpu: 1"),
        f"f:6:7: {D}.ray_actor_options.num_gpu: there is no such option. Did you mean 'num_gpus'?",
    ),
    (
        in_deployment("ray_actor_options:\n  num_gpus: -1"),
        f"f:6:17: {D}.ray_actor_options.num_gpus=-1: must be a number of at least 0, or None",
    ),
    (
        in_deployment("ray_actor_options:\n  runtime_env:\n    env_vars: {A: 1}\n    work_dir: ."),
        (
            f"f:7:23: {D}.ray_actor_options.runtime_env.env_vars.A=1: must be a string\n"
            f"f:8:9: {D}.ray_actor_options.runtime_env.work_dir: there is no such key. Did you mean 'working_dir'?"
        ),
    ),
    (
        in_deployment("ray_actor_options: [1]"),
        f"f:5:24: {D}.ray_actor_options=[1]: must be a mapping of names to values",
    ),
    (
        in_deployment("autoscaling_config: {min_replicas: 3, max_replicas: 2}"),
        f"f:5:57: {D}.autoscaling_config.max_replicas=2: must be at least min_replicas=3",
    ),
    (
        in_deployment("num_replicas: 2\nautoscaling_config: {max_replicas: 2}"),
        f"f:5:19: {D}.num_replicas=2: cannot be set together with autoscaling_config; leave it out, or",
    ),
    (
        in_deployment("logging_config: {log_level: loud}"),
        f"f:5:33: {D}.logging_config.log_level='loud': must be a level of logging, like \"INFO\" or 20",
    ),
    (in_deployment("gang_scheduling_config: {}"), f"f:5:29: {D}.gang_scheduling_config.gang_size: is required"),
    (
        in_app("external_scaler_enabled: true\ndeployments:\n- name: D\n  num_replicas: auto"),
        f"f:5:5: {D}.autoscaling_config: cannot be set together with external_scaler_enabled",
    ),
]
