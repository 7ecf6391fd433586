"""Configs as the controller takes them: what an instance is to declarations and checks, and a module to build."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from data.scene import run as run_within_30_s
from salver.controller.declarations import Declarations
from salver.controller.refusals import PrefixTaken
from salver.records import ApplicationSpec, CodeContext, JsonDict
from salver.views import Happening

SHOP = """
import os, sys
print("words on standard output")
from salver import serve

@serve.deployment(num_replicas=2, max_queued_requests=9)
class Till:
    def __init__(self, size=1): ...
    def reconfigure(self, config): ...

app = Till.bind()

def build(args):
    assert args == {"n": 3, "text": "3"}, args
    return Till.bind(args["n"])

def failing(args):
    raise LookupError("no such thing")

def ending(args):
    os._exit(7)

def leaving(args):
    sys.exit(3)

def waiting(args):
    import pathlib, signal, subprocess
    child = subprocess.Popen(["sleep", "600"])
    pathlib.Path(args["pid_file"] + ".new").write_text(f"{os.getpid()} {child.pid}")
    os.rename(args["pid_file"] + ".new", args["pid_file"])
    signal.pause()
"""


class Instance:
    """What the controller is to declarations: it takes specs, and refuses prefixes that others have."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.code = CodeContext((str(folder),), str(folder))
        self.specs: dict[str, ApplicationSpec] = {}
        self.deployed: list[str] = []
        self.deleted: list[str] = []
        self.capacities: list[float | None] = []
        self.told: list[Happening] = []
        self.to_come: list[tuple[str, ...]] = []
        self.changed = asyncio.Event()

    def deploy(self, spec: ApplicationSpec) -> float:
        for other in self.specs.values():
            if other.name != spec.name and spec.route_prefix == other.route_prefix and spec.route_prefix is not None:
                raise PrefixTaken(f"prefix {spec.route_prefix} is being used by '{other.name}'")
        self.specs[spec.name] = spec
        self.deployed.append(spec.name)
        self.changed.set()
        return float(len(self.deployed))

    def delete(self, name: str) -> None:
        del self.specs[name]
        self.deleted.append(name)

    def tell(self, happening: Happening) -> None:
        self.told.append(happening)
        self.changed.set()

    def declarations(self) -> Declarations:
        return Declarations(
            self.folder,
            deploy=self.deploy,
            delete=self.delete,
            declared=lambda: {s.name: s.route_prefix for s in self.specs.values() if s.config is not None},
            of_code=lambda: {s.name: s.route_prefix for s in self.specs.values() if s.config is None},
            set_capacity=self.capacities.append,
            tell=self.tell,
            still_to_come=self.to_come.append,
            code=self.code,
        )

    @asynccontextmanager
    async def started(self) -> AsyncIterator[Declarations]:
        declarations = self.declarations()
        declarations.start()
        try:
            yield declarations
        finally:
            await declarations.stop()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def built(self, declarations: Declarations) -> None:
        """Until nothing is being built any more."""
        async with asyncio.timeout(60):
            while any(each.status == "DEPLOYING" for each in declarations.builds().values()):
                await asyncio.sleep(0.02)


def run(test: Any) -> None:
    run_within_30_s(test)


def app(name: str, target: str = "app", **more: Any) -> JsonDict:
    return {"name": name, "route_prefix": f"/{name}", "import_path": f"shop:{target}", **more}


def config(*applications: JsonDict, **more: Any) -> JsonDict:
    return {"applications": list(applications), **more}


async def pids_in(path: Path) -> list[int]:
    """What ``waiting`` writes: its process, and one that it has started."""
    async with asyncio.timeout(60):
        while not path.exists():
            await asyncio.sleep(0.02)
    return [int(each) for each in path.read_text().split()]
