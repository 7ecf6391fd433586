"""The decorator, and the two things a user builds an application of: deployments and bound deployments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Generic, Literal, NoReturn, TypeVar, Unpack, cast, overload

from salver.errors import ConfigurationError
from salver.serve.config import BackpressureConfig, LoggingConfig
from salver.serve.option_effects import warn_about_options_without_effect
from salver.serve.options import DeploymentKwargs, DeploymentOptions, check_option_names

Target = TypeVar("Target", bound=Callable[..., Any])


class Deployment(Generic[Target]):
    """A class or function with the options under which it is served; made by ``@serve.deployment``.

    It is immutable: ``options`` gives a changed copy, ``bind`` an application.
    """

    def __init__(
        self,
        func_or_class: Target,
        options: DeploymentOptions,
        init_args: tuple[Any, ...] = (),
        init_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._func_or_class = func_or_class
        self._options = options
        self._init_args = init_args
        self._init_kwargs = dict(init_kwargs or {})

    @property
    def name(self) -> str:
        """Name within its application; by default that of the class or function."""
        return self._options.name or self._func_or_class.__name__

    @property
    def version(self) -> None:
        """Always None: versions are content hashes, made when the application is built."""
        return

    @property
    def func_or_class(self) -> Target:
        """What was decorated."""
        return self._func_or_class

    @property
    def num_replicas(self) -> int | Literal["auto"]:
        return self._options.num_replicas

    @property
    def user_config(self) -> Any:
        return self._options.user_config

    @property
    def max_ongoing_requests(self) -> int:
        return self._options.max_ongoing_requests

    @property
    def max_queued_requests(self) -> int:
        return self._options.max_queued_requests

    @property
    def backpressure_config(self) -> BackpressureConfig:
        return self._options.backpressure_config

    @property
    def ray_actor_options(self) -> dict[str, Any]:
        """What the user has set of them, and ``num_cpus``."""
        actor_options = self._options.ray_actor_options
        return {"num_cpus": actor_options.num_cpus, **actor_options.model_dump(exclude_unset=True)}

    @property
    def logging_config(self) -> LoggingConfig | None:
        return self._options.logging_config

    @property
    def init_args(self) -> tuple[Any, ...]:
        """Positional arguments of the constructor; empty before ``bind``."""
        return self._init_args

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """Keyword arguments of the constructor; empty before ``bind``."""
        return self._init_kwargs

    @property
    def all_options(self) -> DeploymentOptions:
        """Every option, set or default."""
        return self._options

    def options(self, **options: Unpack[DeploymentKwargs]) -> Deployment[Target]:
        """A copy with some options changed; the rest is kept.

        Raises:
            TypeError: an unknown option.
            OptionsError: a wrong value (a ``ValueError``).
        """
        check_option_names("Deployment.options()", options)
        changed = Deployment(self._func_or_class, self._options.changed(options), self._init_args, self._init_kwargs)
        warn_about_options_without_effect(changed.name, changed.all_options)
        return changed

    def bind(self, *args: Any, **kwargs: Any) -> Application:
        """An application of which this deployment is the root, constructed with these arguments.

        Each replica calls the constructor. Other applications, anywhere in the arguments, arrive there as
        handles to their deployments.

        Raises:
            TypeError: the arguments do not fit the constructor.
            ConfigurationError: arguments for a function (a ``ValueError``).
        """
        if not inspect.isclass(self._func_or_class):
            if args or kwargs:
                raise ConfigurationError("init_args not supported for function deployments.")
        else:
            self._check_arguments(args, kwargs)
        return Application(Deployment(self._func_or_class, self._options, args, kwargs))

    def _check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for argument in (*args, *kwargs.values()):
            if isinstance(argument, Deployment):
                name = cast("Deployment[Any]", argument).name
                raise TypeError(
                    f"deployment {self.name!r}: argument {name} is a Deployment; bind it first: {name}.bind()"
                )
        signature = constructor_signature(self._func_or_class)
        if signature is None:
            return
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            shown = self._func_or_class.__name__ + _without_annotations(signature)
            raise TypeError(f"deployment {self.name!r}: bind(): {error}; the constructor is {shown}") from None

    def __call__(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        name = self._func_or_class.__name__
        raise RuntimeError(
            f"Deployments cannot be constructed directly. Use `{name}.bind(...)` to build an application and "
            f"`serve.run` to run it; what was decorated is `{name}.func_or_class`."
        )

    def __mro_entries__(self, bases: tuple[object, ...]) -> NoReturn:
        name = self._func_or_class.__name__
        raise TypeError(f"{name} is a deployment, not a class: inherit from `{name}.func_or_class`.")

    def __repr__(self) -> str:
        return f"Deployment(name={self.name!r})"


class Application:
    """A deployment bound to its arguments: pass it to ``serve.run`` or to another deployment's ``bind``.

    Its identity counts: the same object used twice is one deployment, two equal binds are two.
    """

    __slots__ = ("_deployment",)

    def __init__(self, deployment: Deployment[Any]) -> None:
        self._deployment = deployment

    @property
    def deployment(self) -> Deployment[Any]:
        """The root deployment, with its arguments."""
        return self._deployment

    def __repr__(self) -> str:
        return f"Application({self._deployment.name!r})"


def constructor_signature(target: Callable[..., Any]) -> inspect.Signature | None:
    """The parameters of a class's constructor, None when Python cannot tell (classes written in C)."""
    try:
        return inspect.signature(target)
    except (TypeError, ValueError):
        return None


def _without_annotations(signature: inspect.Signature) -> str:
    empty = inspect.Signature.empty
    names = [parameter.replace(annotation=empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=names, return_annotation=empty))


@overload
def deployment(func_or_class: Target, /, **options: Unpack[DeploymentKwargs]) -> Deployment[Target]: ...


@overload
def deployment(
    **options: Unpack[DeploymentKwargs],
) -> Callable[[Target], Deployment[Target]]: ...


def deployment(
    func_or_class: Target | None = None, /, **options: Unpack[DeploymentKwargs]
) -> Deployment[Target] | Callable[[Target], Deployment[Target]]:
    """Make a deployment of a class or function: ``@serve.deployment``, ``@serve.deployment(num_replicas=2)``.

    Args:
        func_or_class: what to serve; its instances answer requests with ``__call__`` and their other methods.
        options: see ``DeploymentOptions`` and ``docs/options.md``.

    Raises:
        TypeError: not a class or function, or an unknown option.
        OptionsError: a wrong value (a ``ValueError``).
    """
    check_option_names("serve.deployment()", options)
    checked = DeploymentOptions().changed(options)
    if func_or_class is not None:
        return _decorate(func_or_class, checked)
    return lambda target: _decorate(target, checked)


def _decorate(target: Target, options: DeploymentOptions) -> Deployment[Target]:
    if not _is_class_or_function(target):
        raise TypeError(f"@serve.deployment must be applied to a class or function, not to {target!r}")
    made = Deployment(target, options)
    warn_about_options_without_effect(made.name, options)
    return made


def _is_class_or_function(target: object) -> bool:
    return inspect.isclass(target) or inspect.isroutine(target)


def _show_options(function: Callable[..., Any]) -> None:
    """Let ``help()`` and notebooks list the options with defaults; editors read ``DeploymentKwargs``."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
        for name, field in DeploymentOptions.model_fields.items()
    ]
    cast(Any, function).__signature__ = signature.replace(parameters=[*own, *keywords])


_show_options(deployment)
_show_options(cast(Any, Deployment).options)
