"""The flags of the HTTP ingress: where it listens, TLS, limits. The command gets them as one record.

They become ``ProxyOptions`` without a detour through ``HTTPOptions``: the process of ``salver run`` lives as long as
the application and does not carry pydantic. What both check is in ``data.http.options``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from click.core import ParameterSource
from msgspec import Struct

from salver.cli.sections import SectionedOption
from salver.cli.size import size
from salver.data.http.limits import HTTPLimits
from salver.data.http.options import ROOT_PATH, ProxyOptions, TLSFiles, clean_root_path, is_loopback

PASSWORD_VARIABLE = "SALVER_SSL_KEYFILE_PASSWORD"  # noqa: S105 - its name


class IngressFlags(Struct, frozen=True):
    """What the user said about the ingress of a new instance.

    Attributes:
        root_url: under which clients reach it from elsewhere; only a config file says that.
        values: the flags, as they were parsed.
        given: the names of those that are not defaults.
    """

    host: str
    port: int
    proxies: int
    options: ProxyOptions
    root_url: str = ""
    values: dict[str, Any] = {}
    given: tuple[str, ...] = ()

    def over(self, http_options: dict[str, Any]) -> IngressFlags:
        """These flags, and where they are defaults what a config file says, by the names of ``HTTPOptions``."""
        of_file = {_NAMES_IN_FILES.get(name, name): value for name, value in http_options.items()}
        root_url = of_file.pop("root_url", "")
        said = {name: self.values[name] for name in self.given}
        return _ingress({**self.values, **of_file, **said}, self.given, root_url)


def _seconds(value: str | float) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise click.BadParameter(f"{value!r} is not a number above 0.")
    return seconds


def _root_path(value: str) -> str:
    try:
        return clean_root_path(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} must be {ROOT_PATH}.") from None


def _flag(*declarations: str, section: str, **attributes: Any) -> Any:
    return click.option(*declarations, cls=SectionedOption, section=section, **attributes)


_HTTP = "HTTP"
_TLS = "TLS"
_LIMITS = "Limits"
_FLAGS = (
    _flag("--host", section=_HTTP, default="127.0.0.1", help="Address to listen on."),
    _flag("--port", section=_HTTP, default=8000, type=click.IntRange(0, 65535), help="Port; 0 for any."),
    _flag("--proxies", section=_HTTP, default=1, type=click.IntRange(1, 64), help="Processes that share the port."),
    _flag("--root-path", section=_HTTP, metavar="PATH", type=_root_path, help="Prefix that a proxy in front strips."),
    _flag("--debug", section=_HTTP, is_flag=True, help="Show tracebacks to clients; with a loopback --host only."),
    _flag("--ssl-certfile", section=_TLS, metavar="FILE", help="Certificate chain (PEM): serve HTTPS only."),
    _flag("--ssl-keyfile", section=_TLS, metavar="FILE", help="Its private key (PEM)."),
    _flag(
        "--ssl-keyfile-password",
        section=_TLS,
        metavar="TEXT",
        envvar=PASSWORD_VARIABLE,
        show_envvar=True,
        help="Password of the key. Others can see arguments: prefer the variable.",
    ),
    _flag("--ssl-ca-certs", section=_TLS, metavar="FILE", help="Authorities (PEM): clients must have a certificate."),
    _flag(
        "--request-timeout",
        section=_LIMITS,
        metavar="SECONDS",
        type=_seconds,
        help="Give up a request after this; default never.",
    ),
    _flag(
        "--timeout-status",
        section=_LIMITS,
        type=click.Choice(["504", "408"]),
        default="504",
        help="What its client hears then.",
    ),
    _flag(
        "--max-body",
        section=_LIMITS,
        metavar="SIZE",
        type=size,
        default="64M",
        help="Largest request body, in bytes or with K, M, G.",
    ),
    _flag(
        "--keep-alive",
        section=_LIMITS,
        metavar="SECONDS",
        type=_seconds,
        default="90",
        help="Close connections that are idle for this long.",
    ),
)
_NAMES = (
    "host",
    "port",
    "proxies",
    "root_path",
    "debug",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_keyfile_password",
    "ssl_ca_certs",
    "request_timeout",
    "timeout_status",
    "max_body",
    "keep_alive",
)
_SAID = {ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT}
_NAMES_IN_FILES = {
    "request_timeout_s": "request_timeout",
    "timeout_status_code": "timeout_status",
    "max_body_bytes": "max_body",
    "keep_alive_timeout_s": "keep_alive",
}


def ingress_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Add the flags to a command; it gets them as one argument, ``ingress``.

    The command is not called, and exits with 2, when flags contradict each other, or were given together with
    ``--instance``, whose ingress has its options already.
    """

    @wraps(command)
    def with_ingress(**values: Any) -> None:
        flags = {name: values.pop(name) for name in _NAMES}
        os.environ.pop(PASSWORD_VARIABLE, None)  # no process that we start needs it
        context = click.get_current_context()
        given = tuple(name for name in _NAMES if context.get_parameter_source(name) in _SAID)
        if values.get("instance") is not None:
            _refuse_with_instance(context)
        command(ingress=_ingress(flags, given), **values)

    for flag in reversed(_FLAGS):
        with_ingress = flag(with_ingress)
    return with_ingress


def _refuse_with_instance(context: click.Context) -> None:
    given = [name for name in _NAMES if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise click.UsageError(f"{flags}: not with --instance, which has been listening since it was started.")


def _ingress(flags: dict[str, Any], given: tuple[str, ...], root_url: str = "") -> IngressFlags:
    if flags["debug"] and not is_loopback(flags["host"]):
        raise click.UsageError(f"--debug shows tracebacks to every client: not with --host {flags['host']}.")
    options = ProxyOptions(
        limits=HTTPLimits(body=flags["max_body"], keep_alive_timeout_s=flags["keep_alive"]),
        request_timeout_s=flags["request_timeout"],
        timeout_status=int(flags["timeout_status"]),
        root_path=flags["root_path"] or "",
        debug=flags["debug"],
        tls=_tls(flags["ssl_certfile"], flags["ssl_keyfile"], flags["ssl_keyfile_password"], flags["ssl_ca_certs"]),
    )
    return IngressFlags(flags["host"], flags["port"], flags["proxies"], options, root_url, flags, given)


def _tls(certfile: str | None, keyfile: str | None, password: str | None, ca_certs: str | None) -> TLSFiles | None:
    if certfile and keyfile:
        return TLSFiles(certfile, keyfile, password, ca_certs)
    if certfile or keyfile:
        raise click.UsageError("--ssl-certfile and --ssl-keyfile must be given together.")
    if ca_certs:
        raise click.UsageError("--ssl-ca-certs needs --ssl-certfile and --ssl-keyfile.")
    return None
