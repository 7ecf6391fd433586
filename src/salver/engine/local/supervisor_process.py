"""The supervisor as a process: what the launcher hands to it, in its arguments and as descriptors."""

from __future__ import annotations

import gc
import socket
import sys
from pathlib import Path

import msgspec
from setproctitle import setproctitle

from salver.engine.local.instance import Instance
from salver.engine.local.settings import InstanceSettings, Listening
from salver.engine.local.supervisor import Supervisor


def main() -> None:
    """Entry point: ``FOLDER PROXIES LIFELINE LOCK STARTER ADMINS CONTROL ROUTING OPTIONS ADMIN... HTTP...``, where
    ADMINS is how many ADMIN there are, and what follows it are descriptors. OPTIONS is a file in memory with the
    settings of the instance: a password in it must not be an argument.
    """
    gc.disable()  # importing makes no garbage worth looking for (a tenth of the time to start)
    folder, *numbers = sys.argv[1:]
    proxies, lifeline, lock, starter, admins, control, routing, options, *tcp = [int(number) for number in numbers]
    instance = Instance(Path(folder))
    setproctitle(f"salver: supervisor {instance.name}")
    with open(options, "rb") as file:
        settings = msgspec.json.decode(file.read(), type=InstanceSettings)
    listening = Listening(
        http=[socket.socket(fileno=number) for number in tcp[admins:]],
        admin=[socket.socket(fileno=number) for number in tcp[:admins]],
        control=socket.socket(fileno=control),
        routing=socket.socket(fileno=routing),
    )
    supervisor = Supervisor(
        instance,
        listening=listening,
        proxies=proxies,
        lifeline=lifeline,
        lock=lock,
        starter=starter,
        settings=settings,
    )
    supervisor.run()
