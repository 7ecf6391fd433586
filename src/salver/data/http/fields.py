"""What single header fields say about a request's framing and its connection: one rule per field name."""

from __future__ import annotations

import math
from collections.abc import Callable

from msgspec import Struct

from salver.data.http.limits import BadRequest
from salver.data.http.target import check_host

_CLOSE, _KEEP_ALIVE, _UPGRADE = 1, 2, 4
_CONNECTION_FLAGS = {b"close": _CLOSE, b"keep-alive": _KEEP_ALIVE, b"upgrade": _UPGRADE}
_MAX_LENGTH_DIGITS = 19


class RequestAsks(Struct, gc=False):
    """What a client may ask of Salver itself, in header fields that Ray Serve's users know.

    Attributes:
        timeout_s: ``x-request-timeout-seconds``; None when not given, 0 for no timeout at all.
        disconnect_disabled: ``x-request-disconnect-disabled: ?1``: the request goes on when the client leaves.
        model_id: ``serve_multiplexed_model_id``, also spelled with hyphens (some servers drop underscores).
        session_id: ``x-session-id``.
    """

    timeout_s: float | None = None
    disconnect_disabled: bool = False
    model_id: str = ""
    session_id: str = ""


class FieldFacts(Struct, gc=False):
    """What the fields of one request said; the attributes are those of ``RequestHead``.

    ``connection`` collects the flags of all Connection fields; ``host`` is None when there is no Host. ``asks`` is
    made with the first field that asks something of us: most requests have none.
    """

    host: bytes | None = None
    connection: int = 0
    content_length: int | None = None
    chunked: bool = False
    expect_continue: bool = False
    upgrade: bytes = b""
    request_id: bytes = b""
    keep_alive: bool = True
    asks: RequestAsks | None = None


def read_fields(headers: list[tuple[bytes, bytes]], http_1_0: bool, body_limit: int) -> FieldFacts:
    """Apply the rules.

    Args:
        headers: names in lower case, values without surrounding blanks.
        http_1_0: the request's version is 1.0, which knows less.
        body_limit: bytes that a body may have.

    Raises:
        BadRequest: 400, 413, 417 or 501.
    """
    facts = FieldFacts()
    for name, value in headers:
        rule = _RULES.get(name)
        if rule is not None:
            rule(facts, value)
    length = facts.content_length
    if length is not None and length > body_limit:
        raise BadRequest(413, f"the body has more than {body_limit} bytes")
    if http_1_0:
        _apply_http_1_0(facts)
    elif facts.host is None:
        raise BadRequest(400, "the Host header is missing")
    if facts.connection:
        facts.keep_alive = facts.keep_alive and not facts.connection & _CLOSE
    if facts.upgrade and not facts.connection & _UPGRADE:
        facts.upgrade = b""
    if facts.expect_continue:  # without a body there is nothing to wait for
        facts.expect_continue = facts.chunked or bool(length)
    if facts.chunked and length is not None:
        raise BadRequest(400, "the request has both Transfer-Encoding and Content-Length")
    return facts


def _apply_http_1_0(facts: FieldFacts) -> None:
    if facts.chunked:
        raise BadRequest(400, "HTTP/1.0 has no Transfer-Encoding")
    facts.keep_alive = facts.connection & _KEEP_ALIVE != 0
    facts.expect_continue = False
    facts.upgrade = b""


def _host(facts: FieldFacts, value: bytes) -> None:
    if facts.host is not None:
        raise BadRequest(400, "there are two Host headers")
    check_host(value)
    facts.host = value


def _connection(facts: FieldFacts, value: bytes) -> None:
    for option in value.lower().split(b","):
        facts.connection |= _CONNECTION_FLAGS.get(option.strip(b" \t"), 0)


def _content_length(facts: FieldFacts, value: bytes) -> None:
    if facts.content_length is not None or not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
        raise BadRequest(400, "Content-Length is not one decimal number")
    facts.content_length = int(value)


def _transfer_encoding(facts: FieldFacts, value: bytes) -> None:
    if facts.chunked:
        raise BadRequest(400, "there are two Transfer-Encoding headers")
    if not value:
        raise BadRequest(400, "Transfer-Encoding is empty")  # the parser's older versions let it pass
    if value.lower() != b"chunked":
        raise BadRequest(501, "the only transfer coding known here is chunked")
    facts.chunked = True


def _expect(facts: FieldFacts, value: bytes) -> None:
    if value.lower() != b"100-continue":
        raise BadRequest(417, "the only expectation known here is 100-continue")
    facts.expect_continue = True


def _upgrade(facts: FieldFacts, value: bytes) -> None:
    value = value.lower()
    facts.upgrade = facts.upgrade + b", " + value if facts.upgrade else value


def _request_id(facts: FieldFacts, value: bytes) -> None:
    facts.request_id = facts.request_id or value


def _asks(facts: FieldFacts) -> RequestAsks:
    if facts.asks is None:
        facts.asks = RequestAsks()
    return facts.asks


def _timeout(facts: FieldFacts, value: bytes) -> None:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds):
        raise BadRequest(400, "x-request-timeout-seconds is not a number")
    _asks(facts).timeout_s = max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _disconnect_disabled(facts: FieldFacts, value: bytes) -> None:
    _asks(facts).disconnect_disabled = value == b"?1"


def _model_id(facts: FieldFacts, value: bytes) -> None:
    _asks(facts).model_id = value.decode("latin-1")


def _session_id(facts: FieldFacts, value: bytes) -> None:
    _asks(facts).session_id = value.decode("latin-1")


_RULES: dict[bytes, Callable[[FieldFacts, bytes], None]] = {
    b"host": _host,
    b"connection": _connection,
    b"content-length": _content_length,
    b"transfer-encoding": _transfer_encoding,
    b"expect": _expect,
    b"upgrade": _upgrade,
    b"x-request-id": _request_id,
    b"x-request-timeout-seconds": _timeout,
    b"x-request-disconnect-disabled": _disconnect_disabled,
    b"serve_multiplexed_model_id": _model_id,
    b"serve-multiplexed-model-id": _model_id,
    b"x-session-id": _session_id,
}
