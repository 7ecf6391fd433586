"""What a config file means for an instance that runs, beside what it names: what it takes away, and cannot change."""

from __future__ import annotations

from typing import Any

import msgspec

from salver.cli.requests import CheckedConfig
from salver.controller.api_records import StatusAnswer
from salver.engine.local.instance import InstanceInfo


def removed_by(checked: CheckedConfig, status: StatusAnswer) -> list[str]:
    """The applications that earlier files brought and this one does not name."""
    declared = [view.name for view in status.applications if view.config is not None and view.status != "DELETING"]
    return sorted(set(declared) - set(checked.applications))


def options_without_effect(checked: CheckedConfig, info: InstanceInfo) -> list[str]:
    """A sentence for each option of the HTTP ingress that the file wants and the instance was not started with."""
    running = _http_options(info)
    return [
        f"http_options.{name}={_as_json(wanted)} has no effect: instance {info.name} has {_as_json(running[name])} "
        "until it is started anew."
        for name, wanted in checked.http_options.items()
        if name in running and wanted != running[name] and (name, wanted) != ("port", 0)  # any port
    ]


def _http_options(info: InstanceInfo) -> dict[str, Any]:
    """What a file can say of them, but for the password, which nobody can compare."""
    http, tls = info.http, info.http.tls
    return {
        "host": info.host,
        "port": info.port,
        "root_url": info.root_url,
        "root_path": http.root_path,
        "request_timeout_s": http.request_timeout_s,
        "timeout_status_code": http.timeout_status,
        "keep_alive_timeout_s": http.limits.keep_alive_timeout_s,
        "max_body_bytes": http.limits.body,
        "debug": http.debug,
        "ssl_certfile": tls and tls.certfile,
        "ssl_keyfile": tls and tls.keyfile,
        "ssl_ca_certs": tls and tls.ca_certs,
    }


def _as_json(value: object) -> str:
    return msgspec.json.encode(value).decode()
