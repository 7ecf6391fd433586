"""What only building a config shows, found without an instance: in processes of this command's."""

from __future__ import annotations

import asyncio

from salver.cli.checking import LOOK_EVERY_S, BuildProgress, refuse
from salver.cli.declaring import ReadConfig
from salver.controller.build_messages import BuildRequest, Mistake
from salver.controller.build_process import code_of_this_process
from salver.controller.checks import Findings


def check_here(read: ReadConfig) -> None:
    """Build the config in processes of this command's. Exits as ``check_by_instance`` does."""
    mistakes = asyncio.run(_built_here(read))
    if mistakes:
        refuse(read, mistakes)


async def _built_here(read: ReadConfig) -> tuple[Mistake, ...]:
    findings, progress = Findings(), BuildProgress()
    building = asyncio.ensure_future(findings.gather(BuildRequest(read.checked.document, code_of_this_process())))
    try:
        while not (await asyncio.wait({building}, timeout=LOOK_EVERY_S))[0]:
            progress.show(findings.progress)
        await building
    finally:
        building.cancel()
        await asyncio.wait({building})
    return tuple(findings.mistakes)
