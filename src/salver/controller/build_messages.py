"""What the controller and its build job say to each other: a request, then messages until the job ends.

The job is a process of its own, because a config names code of the user's, which the controller must never import.
The request is one msgpack record on its standard input, to its end. The answer is on its standard output: first
``Invalid``, or ``Accepted``; after that, for each application, any ``Progress`` and then ``Built`` or ``Failed``.
Each message is a little-endian length of four bytes, then msgpack.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from salver.records import ApplicationSpec, CodeContext, JsonDict

MAX_MESSAGE_BYTES = 256 << 20
"""One application, with the code of its deployments by value."""


class BuildRequest(Struct, frozen=True):
    """A config to build.

    Attributes:
        code: where import paths are looked for, before any ``runtime_env``.
        only: names of those of its applications that are to be built; None for all.
    """

    config: JsonDict
    code: CodeContext
    only: tuple[str, ...] | None = None


class Mistake(Struct, frozen=True):
    """Why a config cannot be deployed.

    Attributes:
        at: where in the config: keys and indices from the outside.
        message: a sentence that begins with that place, for people; the user's traceback may follow.
        of_key: what is wrong is the key there, not its value.
        of_config: the config has to be changed, not what it names, which has failed or is not to be had now.
    """

    at: tuple[int | str, ...]
    message: str
    of_key: bool = False
    of_config: bool = True


class Invalid(Struct, frozen=True, tag=True):
    """The config is wrong by itself; nothing else follows."""

    mistakes: tuple[Mistake, ...]


class Accepted(Struct, frozen=True, tag=True):
    """The config is in order.

    Attributes:
        names: of its applications, in their order.
        target_capacity: in percent, None for all.
        warnings: what it sets without effect.
    """

    names: tuple[str, ...]
    target_capacity: float | None = None
    warnings: tuple[str, ...] = ()


class Progress(Struct, frozen=True, tag=True):
    """What takes long, for people."""

    app: str
    text: str


class Built(Struct, frozen=True, tag=True):
    """One application is ready to be deployed."""

    application: ApplicationSpec


class Failed(Struct, frozen=True, tag=True):
    """One application cannot be built; the message holds the user's traceback, ``mistakes`` the same by place."""

    app: str
    message: str
    mistakes: tuple[Mistake, ...] = ()


BuildMessage = Invalid | Accepted | Progress | Built | Failed

_decoder = msgspec.msgpack.Decoder(BuildMessage)


def framed(message: BuildMessage) -> bytes:
    """``message`` as it travels. Raises ValueError when it is too large."""
    encoded = msgspec.msgpack.encode(message)
    if len(encoded) > MAX_MESSAGE_BYTES:
        raise ValueError(f"has {len(encoded)} bytes, more than {MAX_MESSAGE_BYTES}")
    return len(encoded).to_bytes(4, "little") + encoded


def decoded(message: bytes) -> BuildMessage:
    """The message without its length. Raises ValueError for what is none."""
    try:
        return _decoder.decode(message)
    except msgspec.DecodeError as error:  # no ValueError before msgspec 0.22
        raise ValueError(str(error)) from error
