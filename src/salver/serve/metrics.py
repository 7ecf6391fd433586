"""Metrics of user code: ``Counter``, ``Gauge`` and ``Histogram``.

Inside a replica every metric carries the tags ``deployment``, ``replica`` and ``application`` by itself. Making the
same metric twice is fine: both count into the same series. Values reach the controller about once a second, and with
the last push of a replica that drains; nothing is sent from driver scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any, Generic, Self, cast

from salver.data.context import ReplicaIdentity, replica_identity
from salver.errors import ConfigurationError
from salver.telemetry.metrics import MOST_LABEL_SETS, Distribution, Family, SeriesT, Value, registry

_AUTOMATIC_TAGS = ("deployment", "replica", "application")


class Metric(Generic[SeriesT]):
    """What the three kinds share. May be used from any thread, and pickled with the code that uses it.

    A metric that is made inside a replica belongs to it for good; one that was made elsewhere, by a module that
    several replicas share in local testing mode, takes the tags of the replica that updates it.
    """

    def __init__(self, name: str, description: str, tag_keys: Sequence[str] | None) -> None:
        self._name = _checked_name(name)
        self._description = description
        self._tag_keys = _checked_tag_keys(tag_keys)
        self._default_tags: dict[str, str] = {}
        self._identity = replica_identity.get()
        if self._identity is not None:
            _check_not_reserved(self._tag_keys)
        self._automatic = tuple(tag for tag in _AUTOMATIC_TAGS if tag not in self._tag_keys)
        self._family = self._find_family((*self._automatic, *self._tag_keys))
        self._known: dict[object, SeriesT] = {}

    def _find_family(self, label_names: tuple[str, ...]) -> Family[SeriesT]:
        raise NotImplementedError

    @property
    def info(self) -> dict[str, Any]:
        """Name, description, tag keys and default tags, without the automatic ones."""
        return {
            "name": self._name,
            "description": self._description,
            "tag_keys": self._tag_keys,
            "default_tags": dict(self._default_tags),
        }

    def set_default_tags(self, default_tags: dict[str, str]) -> Self:
        """Values of tags that an update does not name; returns the metric.

        Raises:
            ValueError: a key that ``tag_keys`` does not have.
            TypeError: a value that is no string.
        """
        self._check_tags(default_tags)
        self._default_tags = dict(default_tags)
        self._known = {}
        return self

    def _series(self, tags: dict[str, str] | None) -> SeriesT:
        identity = self._identity or replica_identity.get()
        replica = "" if identity is None else identity.replica_id
        key = (replica, *tags.items()) if tags else replica
        try:
            series = self._known.get(key)
        except TypeError:  # a value that cannot be hashed is no string
            series = None
        return series if series is not None else self._find_series(identity, tags or {}, key)

    def _find_series(self, identity: ReplicaIdentity | None, tags: dict[str, str], key: object) -> SeriesT:
        known = self._known
        self._check_tags(tags)
        final = {**self._default_tags, **tags}
        missing = [name for name in self._tag_keys if name not in final]
        if missing:
            raise ConfigurationError(
                f"Missing value for tag key(s): {','.join(missing)}. Metric '{self._name}' declares them: "
                "pass them in tags=, or give them a default with set_default_tags()."
            )
        if identity is not None:
            final = {
                "deployment": identity.deployment,
                "replica": identity.replica_id,
                "application": identity.app_name,
                **final,
            }
        series = self._family.series(tuple(final.get(name, "") for name in self._family.label_names))
        if len(known) < MOST_LABEL_SETS:
            known[key] = series
        return series

    def _check_tags(self, tags: dict[str, str]) -> None:
        for name, value in tags.items():
            if name not in self._tag_keys:
                declared = ", ".join(self._tag_keys) or "none"
                raise ConfigurationError(
                    f"Unrecognized tag key {name}. Metric '{self._name}' declares tag_keys: {declared}."
                )
            if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance] - users
                raise TypeError(f"Tag values must be str, got {type(value)} for tag {name}.")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), *self._arguments()), self._default_tags or None

    def __setstate__(self, default_tags: dict[str, str]) -> None:
        self._default_tags = default_tags

    def _arguments(self) -> tuple[Any, ...]:
        return self._name, self._description, self._tag_keys


class Counter(Metric[Value]):
    """A number that only goes up.

    Args:
        name: shown with ``_total`` in Prometheus format.
        description: for people.
        tag_keys: names of its tags.

    Raises:
        ValueError: the name is empty, or taken by a metric of another kind; a tag key is one of the automatic ones.
        TypeError: the name or a tag key is no string, or ``tag_keys`` no tuple.
    """

    def __init__(self, name: str, description: str = "", tag_keys: Sequence[str] | None = None) -> None:
        super().__init__(name, description, tag_keys)

    def _find_family(self, label_names: tuple[str, ...]) -> Family[Value]:
        return registry.counter(self._name, self._description, label_names, kept=len(self._automatic))

    def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        """Add ``value``.

        Raises:
            ValueError: it is not above 0 or not finite; a tag is unknown or missing.
            TypeError: it is no number; the value of a tag is no string.
        """
        amount = _number(value)
        if not (amount > 0 and isfinite(amount)):
            raise ConfigurationError(f"value must be >0, got {value}: a counter only goes up, use a Gauge.")
        self._series(tags).inc(amount)


class Gauge(Metric[Value]):
    """A number that goes up and down; the last one set counts. Arguments and errors are those of ``Counter``."""

    def __init__(self, name: str, description: str = "", tag_keys: Sequence[str] | None = None) -> None:
        super().__init__(name, description, tag_keys)

    def _find_family(self, label_names: tuple[str, ...]) -> Family[Value]:
        return registry.gauge(self._name, self._description, label_names, kept=len(self._automatic))

    def set(self, value: float | None, tags: dict[str, str] | None = None) -> None:
        """Make it ``value``; None changes nothing.

        Raises:
            ValueError: a tag is unknown or missing.
            TypeError: ``value`` is no number; the value of a tag is no string.
        """
        if value is not None:
            self._series(tags).set(_number(value))


class Histogram(Metric[Distribution]):
    """How values are distributed: a count for each bucket, and their sum.

    Args:
        boundaries: upper bounds of the buckets; one more takes what is above. Required.
        name, description, tag_keys: as in ``Counter``.

    Raises:
        ValueError: there are no boundaries, or one is not finite; and as ``Counter``.
        TypeError: a boundary is no number; and as ``Counter``.
    """

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: Sequence[float] | None = None,
        tag_keys: Sequence[str] | None = None,
    ) -> None:
        self._boundaries = _checked_boundaries(boundaries)
        super().__init__(name, description, tag_keys)

    def _find_family(self, label_names: tuple[str, ...]) -> Family[Distribution]:
        return registry.histogram(
            self._name, self._description, self._boundaries, label_names, kept=len(self._automatic)
        )

    def _arguments(self) -> tuple[Any, ...]:
        return self._name, self._description, self._boundaries, self._tag_keys

    @property
    def info(self) -> dict[str, Any]:
        return {**super().info, "boundaries": list(self._boundaries)}

    def observe(self, value: float, tags: dict[str, str] | None = None) -> None:
        """Count ``value``.

        Raises:
            ValueError: it is not finite; a tag is unknown or missing.
            TypeError: it is no number; the value of a tag is no string.
        """
        amount = _number(value)
        if not isfinite(amount):
            raise ConfigurationError(f"value must be finite, got {value}: it would spoil the sum for good.")
        self._series(tags).observe(amount)


def _rebuild(kind: type[Metric[Any]], *arguments: Any) -> Metric[Any]:
    """A metric that was pickled with user code: made anew where it is unpickled, and of the replica there."""
    return kind(*arguments)


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"The name of a metric must be str, got {type(name)}.")
    if not name:
        raise ConfigurationError("Empty name is not allowed. Please provide a metric name.")
    return name


def _checked_tag_keys(tag_keys: object) -> tuple[str, ...]:
    if tag_keys is None:
        return ()
    if not isinstance(tag_keys, tuple | list):
        raise TypeError(f"tag_keys should be a tuple type, got: {type(tag_keys)}")
    keys = tuple(cast("Sequence[object]", tag_keys))
    for key in keys:
        if not isinstance(key, str):
            raise TypeError(f"Tag keys must be str, got {type(key)}.")
    return cast("tuple[str, ...]", keys)


def _check_not_reserved(tag_keys: tuple[str, ...]) -> None:
    for tag in _AUTOMATIC_TAGS:
        if tag in tag_keys:
            raise ConfigurationError(f"'{tag}' tag is reserved for Serve metrics: every metric of a replica has it.")


def _checked_boundaries(boundaries: Sequence[float] | None) -> tuple[float, ...]:
    if boundaries is None or len(boundaries) == 0:
        raise ConfigurationError(
            "boundaries argument should be provided when using the Histogram class. "
            "e.g., Histogram('name', boundaries=[1.0, 2.0])"
        )
    numbers = sorted({_number(boundary) for boundary in boundaries})
    if not all(map(isfinite, numbers)):
        raise ConfigurationError(f"boundaries={boundaries}: must be finite; what is above the last one has a bucket.")
    return tuple(numbers)


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"value must be int or float, got {type(value)}.")
    return float(value)
