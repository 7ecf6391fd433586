"""Metadata of frames, as msgpack arrays. Fields are only ever added at the end, with defaults."""

from __future__ import annotations

import struct

import msgspec
from msgspec import Struct

from salver.errors import ProtocolError
from salver.records import ApplicationSpec, DeploymentSpec

PROTOCOL_VERSION = 3

STREAM_WINDOW_BYTES = 64 * 1024
"""How much of a streamed response may be under way before the caller grants more."""

BODY_WINDOW_BYTES = 256 * 1024
"""How much of a request body may be under way before user code has read it."""

MESSAGE_OVERHEAD_BYTES = 64
"""What a WebSocket message counts for besides its payload, in both windows: empty ones must not be free."""


class Hello(Struct, frozen=True, array_like=True):
    """First frame of every connection, from the dialling side.

    Attributes:
        version: PROTOCOL_VERSION of the sender.
        key: the instance's session key; whoever lacks it is disconnected.
        sender: what the sender is, for logs: ``proxy``, ``controller``, a replica id, ``driver``.
    """

    version: int
    key: bytes
    sender: str


class CallMeta(Struct, frozen=True, array_like=True, omit_defaults=True):
    """A handle call; the payload is the pickled (args, kwargs).

    Attributes:
        method: name of the method of the user's object.
        request_id, route, app: of the HTTP request at the root of this call, for context and logs.
        remaining_s: seconds until the deadline, 0 for none.
        stream: the caller wants the items of a generator, one DATA frame each.
        model_id: which multiplexed model the call is for, empty for none.
        session_id: what the caller keeps together, empty for none.
    """

    method: str
    request_id: str
    route: str = ""
    app: str = ""
    remaining_s: float = 0.0
    stream: bool = False
    model_id: str = ""
    session_id: str = ""


class RequestMeta(Struct, frozen=True, array_like=True, omit_defaults=True):
    """An HTTP request; the payload is the body or its beginning (the END flag says which).

    Attributes:
        target: path and query as sent by the client.
        headers: names lower-cased, order kept.
        root_path: the application's route prefix, without a final slash.
        scheme: ``http`` or ``https``; ``ws`` or ``wss`` for a WebSocket.
        client, server: (host, port) of the two ends of the client's connection.
        remaining_s: seconds until the deadline, 0 for none.
        model_id, session_id: as in ``CallMeta``.
    """

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    request_id: str
    http_version: str
    root_path: str
    app: str
    scheme: str
    client: tuple[str, int] | None
    server: tuple[str, int] | None
    remaining_s: float = 0.0
    model_id: str = ""
    session_id: str = ""


class ResponseMeta(Struct, frozen=True, array_like=True, omit_defaults=True):
    """An HTTP response's head; the payload of RESPONSE is the whole body.

    Attributes:
        status: HTTP status code.
        header_block: validated header lines, each ended by CRLF, without framing headers: the proxy adds those.
        content_length: what the application declared; -1 when it declared nothing.
    """

    status: int
    header_block: bytes
    content_length: int = -1


class ErrorKind:
    """Whose fault an ERROR frame is; strings, so that an old reader shows what it does not know."""

    USER = "user"
    NO_METHOD = "no_method"
    GENERATOR = "generator"
    BACKPRESSURE = "backpressure"
    UNAVAILABLE = "unavailable"
    LOST = "lost"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    SERIALIZATION = "serialization"

    CONSTRUCTOR = "constructor"
    RECONFIGURE = "reconfigure"
    FIRST_CHECK = "first check_health"
    """The three steps of Initialize, by the name that people read."""


class ErrorMeta(Struct, frozen=True, array_like=True, omit_defaults=True):
    """An exception on the other side; the payload is the pickled exception or nothing.

    Attributes:
        status, retry_after_s: what an HTTP client hears of a full queue (``ErrorKind.BACKPRESSURE``).
    """

    kind: str
    type_name: str
    message: str
    traceback: str = ""
    status: int = 0
    retry_after_s: float | None = None


class CloseMeta(Struct, frozen=True, array_like=True, omit_defaults=True):
    """How a WebSocket ends, on the END frame of either side (RFC 6455, section 7.4)."""

    code: int = 1000
    reason: str = ""


class Initialize(Struct, frozen=True, tag=True, array_like=True):
    """Construct the user's object. Asked again for the same version it answers as before and does nothing.

    Attributes:
        rank: the replica's number among its deployment's, from 0; -1 for none.
    """

    replica_id: str
    application: ApplicationSpec
    deployment: DeploymentSpec
    rank: int = -1


class Constructed(Struct, frozen=True, array_like=True):
    """The answer to Initialize: what only the constructed object can say.

    Attributes:
        docs_path: where the ingress serves its own documentation, below the route prefix; empty for nowhere.
        checks_health: the class has a ``check_health``; it has passed once.
        records_stats: the class has a ``record_autoscaling_stats``.
        rank: the number that it has; when it was constructed before, perhaps not the one of this Initialize.
    """

    docs_path: str = ""
    checks_health: bool = False
    records_stats: bool = False
    rank: int = -1


class Reconfigure(Struct, frozen=True, tag=True, array_like=True):
    """Be as this says from now on; the version, and so the definition, is the one that it has.

    ``user_config`` or ``rank`` changed: the class's ``reconfigure`` is called, and what it raises is the answer.
    """

    deployment: DeploymentSpec
    rank: int = -1


class CheckHealth(Struct, frozen=True, tag=True, array_like=True):
    """Call the class's ``check_health``; what it raises is the answer."""


class RecordStats(Struct, frozen=True, tag=True, array_like=True):
    """Call the class's ``record_autoscaling_stats``; the answer's metadata is its dict of numbers, as msgpack."""


class Drain(Struct, frozen=True, tag=True, array_like=True):
    """Take nothing new, finish what runs, exit."""


Control = Initialize | Reconfigure | CheckHealth | RecordStats | Drain


class Worn(Struct, frozen=True, tag=True, array_like=True):
    """REPORT: the replica works, and should be replaced; why, for people."""

    reason: str


Report = Worn

Demand = dict[str, int]
"""DEMAND: requests that wait in one caller for a free slot, by ``app#deployment``; all that are above 0."""

encode = msgspec.msgpack.Encoder().encode

_call = msgspec.msgpack.Decoder(CallMeta)
_request = msgspec.msgpack.Decoder(RequestMeta)
_response = msgspec.msgpack.Decoder(ResponseMeta)
_error = msgspec.msgpack.Decoder(ErrorMeta)
_constructed = msgspec.msgpack.Decoder(Constructed)
_close = msgspec.msgpack.Decoder(CloseMeta)
_models = msgspec.msgpack.Decoder(tuple[str, ...])
_hello = msgspec.msgpack.Decoder(Hello)
_control: msgspec.msgpack.Decoder[Control] = msgspec.msgpack.Decoder(Control)
_report: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)
_demand: msgspec.msgpack.Decoder[Demand] = msgspec.msgpack.Decoder(Demand)
_credit = struct.Struct("<I")

decode_call = _call.decode
decode_request = _request.decode
decode_response = _response.decode
decode_error = _error.decode
decode_constructed = _constructed.decode
decode_close = _close.decode
decode_models = _models.decode
decode_hello = _hello.decode
decode_report = _report.decode
decode_demand = _demand.decode


def decode_control(data: bytes) -> Control:
    return _control.decode(data)


def encode_credit(size: int) -> bytes:
    """A CREDIT frame's metadata: ``size`` more bytes may be sent."""
    return _credit.pack(size)


def decode_credit(data: bytes) -> int:
    try:
        return _credit.unpack(data)[0]
    except struct.error as error:
        raise ProtocolError(f"bad credit: {error}") from error
