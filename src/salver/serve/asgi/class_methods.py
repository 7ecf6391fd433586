"""Which endpoint of a route is a method of which class, and that method bound to an object.

A route keeps the function that stood below its decorator. Whether this is a method of an object's class is first a
question of identity: it is what the class, or one that it inherits from, has under some name, or what decorators
further up have wrapped (``__wrapped__``). A decorator that hides what it wraps is found by the qualified name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

Endpoint = Callable[..., Any]


class ClassMethods:
    """The methods of ``instance``, to be found by the functions that they were defined as."""

    def __init__(self, instance: object) -> None:
        self._instance = instance
        self._class = type(instance)
        self._names: dict[int, tuple[type, str]] = {}
        for owner in self._class.__mro__:
            for name, attribute in vars(owner).items():
                for function in _layers(attribute):
                    self._names.setdefault(id(function), (owner, name))

    def bound(self, endpoint: Endpoint) -> Endpoint | None:
        """What to call for ``endpoint``: a bound method, itself when it is no method, None for another class's.

        A method that a subclass has overridden is the subclass's; else the function itself is bound, without what
        decorators above the route's have made of it, as in a FastAPI application without classes.
        """
        if not inspect.isfunction(endpoint):
            return endpoint
        place = self._names.get(id(endpoint)) or self._hidden(endpoint)
        if place is None:
            return None if _is_method(endpoint) else endpoint
        owner, name = place
        attribute: Any = inspect.getattr_static(self._class, name)
        if attribute is vars(owner)[name] and type(attribute) not in {staticmethod, classmethod}:
            attribute = endpoint
        return attribute.__get__(self._instance, self._class) if hasattr(attribute, "__get__") else attribute

    def _hidden(self, endpoint: Endpoint) -> tuple[type, str] | None:
        """Where a class has, under the name of ``endpoint``, something that does not say what it wraps."""
        scope, _, name = endpoint.__qualname__.rpartition(".")
        for owner in self._class.__mro__:
            if (owner.__module__, owner.__qualname__) == (endpoint.__module__, scope) and name in vars(owner):
                attribute = vars(owner)[name]
                says_who_it_is = getattr(attribute, "__qualname__", None) == endpoint.__qualname__
                return None if says_who_it_is else (owner, name)
        return None


def _layers(attribute: object) -> Iterator[object]:
    """The function of an attribute of a class, and those that it wraps."""
    function: Any = getattr(attribute, "__func__", attribute)  # of a staticmethod or classmethod
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


def _is_method(endpoint: Endpoint) -> bool:
    """Whether it was defined in the body of a class and wants ``self``."""
    scope, _, _ = endpoint.__qualname__.rpartition(".")
    if not scope or scope.endswith("<locals>"):
        return False
    return list(inspect.signature(endpoint).parameters)[:1] == ["self"]
