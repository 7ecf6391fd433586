"""What type checkers must know about handles; nothing here does anything at run time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, final

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    T_co = TypeVarWithDefault("T_co", covariant=True, default=Any)
else:
    T_co = TypeVar("T_co", covariant=True)
"""What is served: a class, or the type of a function."""

R = TypeVar("R")
S = TypeVar("S")
P = ParamSpec("P")
Items_co = TypeVar("Items_co", covariant=True)


class Streamed(Generic[Items_co]):
    """What a method gives through a handle that streams."""


@final
class Unknown:
    """No T is this one but Any: it marks the overloads for handles of which nothing is known."""
