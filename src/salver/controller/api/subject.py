"""What the routes are about: one instance and its controller, and how much of it they may show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
from starlette.responses import Response

from salver.controller.api.answers import json_answer
from salver.controller.api_records import Declaration, DeclaredAnswer, StatusAnswer
from salver.controller.checks import Checks
from salver.controller.controller import Controller
from salver.controller.documents import Build, with_builds
from salver.controller.redaction import redacted, without_passwords
from salver.engine.local.instance import InstanceInfo
from salver.records import JsonDict
from salver.views import ApplicationView

_SETTLED = frozenset({"RUNNING", "DEPLOY_FAILED"})


class Configs(Protocol):
    """What builds applications from configs."""

    @property
    def checks(self) -> Checks:
        """Of configs that are perhaps to be taken."""
        ...

    async def declare(self, config: JsonDict, check: str | None = None) -> DeclaredAnswer:
        """Take a config; its applications are built after that, unless ``check`` has built them already.

        Raises:
            ConfigRefused: it is wrong.
            Overtaken: another was taken that began after that check.
            ServeException: it cannot be checked now.
        """
        ...

    def forget(self, name: str) -> None:
        """Somebody deletes this application: it is not deployed when its build comes to an end."""
        ...

    def config(self) -> JsonDict | None:
        """The last one taken."""
        ...

    def builds(self) -> Mapping[str, Build]:
        """The applications of it that are being built or could not be, by name."""
        ...

    def declaration(self) -> Declaration | None:
        """When it was taken, and what was deployed because of it."""
        ...


class Subject:
    """An instance, as one listener shows it.

    Args:
        controller: what decides.
        configs: what builds from configs; None where nothing does.
        info: what the instance says about itself.
        pid: of the controller.
        end_instance: asks the supervisor to end the instance.
        logs: the folder of its log files; empty when it has none.
        over_network: secrets are left out.
    """

    def __init__(
        self,
        controller: Controller,
        configs: Configs | None,
        info: Callable[[], InstanceInfo],
        pid: int,
        end_instance: Callable[[], None],
        *,
        logs: str,
        over_network: bool,
    ) -> None:
        self.controller = controller
        self.configs = configs
        self.end_instance = end_instance
        self.info = info
        self._pid = pid
        self._logs = logs
        self._over_network = over_network

    def views(self) -> tuple[ApplicationView, ...]:
        """Every application, those included that are being built."""
        views = self.controller.views()
        return views if self.configs is None else with_builds(views, self.configs.builds(), self.config())

    def config(self) -> JsonDict | None:
        """The config that was last taken."""
        return None if self.configs is None else self.configs.config()

    async def status(self) -> StatusAnswer:
        proxies = tuple(await self.controller.proxy_pids())
        declaration = None if self.configs is None else self.configs.declaration()
        return StatusAnswer(
            self.info(), self._pid, proxies, self.views(), self.controller.target_capacity, declaration, self._logs
        )

    async def wait_until_settled(self, name: str, timeout_s: float) -> bool:
        """Wait until an application runs or has failed, its build included; whether it has in time."""
        return await self.controller.wait_until(
            lambda: all(view.status in _SETTLED for view in self.views() if view.name == name), timeout_s
        )

    def show(self, value: object) -> Response:
        """An answer that holds what users have configured."""
        document: Any = msgspec.to_builtins(value)
        return json_answer(redacted(document) if self._over_network else without_passwords(document))
