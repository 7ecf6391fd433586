"""Metadata of frames: both ends read the same, older senders stay readable, and rubbish is refused."""

from __future__ import annotations

import msgspec
import pytest

from salver.errors import ProtocolError
from salver.records import ApplicationSpec, CodeContext, DeploymentId, DeploymentSpec
from salver.wire import messages
from salver.wire.messages import (
    CallMeta,
    Drain,
    ErrorKind,
    ErrorMeta,
    Hello,
    Initialize,
    RequestMeta,
    ResponseMeta,
    decode_call,
    decode_control,
    decode_credit,
    decode_error,
    decode_hello,
    decode_request,
    decode_response,
    encode,
    encode_credit,
)

DEPLOYMENT = DeploymentSpec(DeploymentId("app", "d"), "v1", b"\x00definition", options={"num_replicas": 1})
APPLICATION = ApplicationSpec("app", "/", "d", (DEPLOYMENT,), CodeContext(("/a",), "/cwd", ("m:f",)))
REQUEST = RequestMeta(
    "POST",
    b"/a?\xff",
    [(b"x", b"\xff"), (b"x", b"2")],
    "id",
    "1.1",
    "/root",
    "app",
    "http",
    ("127.0.0.1", 1),
    None,
    2.5,
)


@pytest.mark.parametrize(
    ("message", "decode"),
    [
        (Hello(1, b"key", "proxy"), decode_hello),
        (CallMeta("m", "id", "/r", "app", 1.5), decode_call),
        (CallMeta("m", "id"), decode_call),
        (REQUEST, decode_request),
        (ResponseMeta(200, b"a: b\r\n", 3), decode_response),
        (ResponseMeta(200, b""), decode_response),
        (ErrorMeta(ErrorKind.USER, "ValueError", "text", "Traceback"), decode_error),
        (Initialize("app#d#1", APPLICATION, DEPLOYMENT), decode_control),
        (Drain(), decode_control),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, msgspec.Struct) else "",
)
def test_round_trip(message: msgspec.Struct, decode: object) -> None:
    assert callable(decode)
    assert decode(encode(message)) == message


def test_fields_of_a_newer_sender_are_ignored() -> None:
    assert decode_call(encode(["m", "id", "/r", "app", 0.0, False, "", "", "new"])) == CallMeta(
        "m", "id", "/r", "app"
    )


def test_fields_that_an_older_sender_lacks_have_defaults() -> None:
    assert decode_call(encode(["m", "id"])) == CallMeta("m", "id")
    assert decode_response(encode([204, b""])) == ResponseMeta(204, b"")


@pytest.mark.parametrize("data", [b"", b"\xff", encode(["only one"]), encode([1, 2]), encode({"method": "m"})])
def test_rubbish_is_a_decode_error(data: bytes) -> None:
    for decode in (decode_call, decode_request, decode_response, decode_error, decode_hello, decode_control):
        with pytest.raises(msgspec.DecodeError):
            decode(data)


@pytest.mark.parametrize("size", [0, 1, messages.STREAM_WINDOW_BYTES, 2**32 - 1])
def test_credit_round_trip(size: int) -> None:
    assert decode_credit(encode_credit(size)) == size


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00" * 5])
def test_a_bad_credit_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="credit"):
        decode_credit(data)
