"""A user's autoscaling policy in the process that runs it: loaded once, then asked; its answers are checked.

Everything of the user's is called here, and whatever it raises, SystemExit included, becomes a ``Failure``.
"""

from __future__ import annotations

import contextlib
import math
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from salver.controller.policy_messages import Failure
from salver.engine.local.roles import make_importable
from salver.errors import ServeException
from salver.records import DeploymentId, PolicySpec
from salver.serve.building.import_path import user_traceback
from salver.serve.policies.autoscaling_context import AutoscalingContext
from salver.wire.payload import load_definition

_SHOWN_CHARS = 200
_MOST_REPLICAS = 1_000_000

Numbers = dict[DeploymentId, int]
States = dict[DeploymentId, dict[str, Any]]


class WrongAnswer(ServeException):
    """A policy returned something else than it should."""


class HostedPolicy:
    """One policy."""

    def __init__(self, spec: PolicySpec) -> None:
        self._spec = spec
        self._call: Callable[..., object] | None = None

    def load(self) -> None:
        """Import the policy's module and make its object. If that fails it is tried again, and told, when asked."""
        with contextlib.suppress(BaseException):
            self._loaded()

    def _loaded(self) -> Callable[..., object]:
        if self._call is None:
            make_importable(self._spec.code)
            target, _ = load_definition(self._spec.definition)
            is_class = isinstance(target, type)
            self._call = target(**self._spec.kwargs) if is_class else partial(target, **self._spec.kwargs)
        assert self._call is not None
        return self._call

    def decide_for(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]] | Failure:
        """Ask a deployment's policy: the number of replicas, and the state to give back the next time."""
        try:
            number, state = self._ask(context)
            return _number(number), _state(state)
        except BaseException as error:  # noqa: BLE001 - whatever users' code does
            return _failure(error)

    def decide_for_all(self, contexts: dict[DeploymentId, AutoscalingContext]) -> tuple[Numbers, States] | Failure:
        """Ask an application's policy: numbers of replicas and states, of the deployments that it speaks of."""
        try:
            numbers, states = self._ask(dict(contexts))
            by_deployment = _by_deployment(numbers, contexts)
            states_by_deployment = _by_deployment({} if states is None else states, contexts)
            return (
                {deployment: _number(number) for deployment, number in by_deployment.items()},
                {deployment: _state(state) for deployment, state in states_by_deployment.items()},
            )
        except BaseException as error:  # noqa: BLE001 - whatever users' code does
            return _failure(error)

    def _ask(self, contexts: object) -> tuple[object, object]:
        answer: Any = self._loaded()(contexts)
        if not isinstance(answer, tuple) or len(cast("tuple[object, ...]", answer)) != 2:
            raise WrongAnswer(f"it returned {_shown(cast(object, answer))}, not a pair of replicas and state")
        return cast("tuple[object, object]", answer)


def _number(number: Any) -> int:
    """A whole number of replicas, rounded up. Numbers of numpy's are fine."""
    try:
        value = float(number)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if isinstance(number, str | bytes | bool) or not 0 <= value <= _MOST_REPLICAS:
        raise WrongAnswer(f"it asks for {_shown(number)} replicas, which is no number from 0 to {_MOST_REPLICAS}")
    return math.ceil(value - 1e-9)


def _state(state: object) -> dict[str, Any]:
    if state is None:
        return {}
    if not isinstance(state, dict):
        raise WrongAnswer(f"its state is {_shown(state)}, not a dict")
    return cast("dict[str, Any]", state)


def _by_deployment(
    answers: object, contexts: Mapping[DeploymentId, AutoscalingContext]
) -> dict[DeploymentId, object]:
    if not isinstance(answers, dict):
        raise WrongAnswer(f"it returned {_shown(answers)}, not a dict by deployment")
    by_deployment = cast("dict[object, object]", answers)
    known = {str(deployment): deployment for deployment in contexts}
    unknown = [key for key in by_deployment if str(key) not in known]
    if unknown:
        raise WrongAnswer(f"it decides for {_shown(unknown[0])}, which is no deployment that it was asked about")
    return {known[str(key)]: answer for key, answer in by_deployment.items()}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"


def _failure(error: BaseException) -> Failure:
    if isinstance(error, WrongAnswer):
        return Failure(str(error))
    where = ""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    if frames:
        where = f" ({frames[-1].filename}, line {frames[-1].lineno})"
    message = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    return Failure(f"{message}{where}", user_traceback(error))
