"""What only building a config shows, found before anything is changed, by the instance that is to run it."""

from __future__ import annotations

from typing import NoReturn

from salver.cli.declaring import ReadConfig
from salver.cli.output import fail, say
from salver.cli.waiting import replaced_by
from salver.controller.build_messages import Mistake
from salver.controller.client import ControlClient, ControlRefused

LOOK_EVERY_S = 1.0  # also what is over sooner says nothing of its progress
_CONTROLLERS = 5
_UNKNOWN = 404


def check_by_instance(read: ReadConfig, control: ControlClient, *, to_deploy: bool) -> str | None:
    """Have the instance build the config; the name of the check, or None when the instance is too old to check.

    Exits with 2 and a line for each mistake if there are any; with 1 if it is not the file that is wrong, or if a
    deploy was overtaken by a later one.
    """
    for _ in range(_CONTROLLERS):
        name = _begun(read, control)
        if name is None:
            return None
        mistakes = _until_finished(read, control, name, to_deploy=to_deploy)
        if mistakes:
            refuse(read, mistakes)
        if mistakes is not None:
            return name
    return fail("the config could not be checked: the controller ends again and again. Its log may say why.", 1)


def _begun(read: ReadConfig, control: ControlClient) -> str | None:
    try:
        return control.begin_check(read.checked.document)
    except ControlRefused as error:
        if error.status != _UNKNOWN:
            fail(str(error), 1 if error.status >= 500 else 2)
    say("Warning: this instance is older than this command: what only building shows is told after the deploy.")
    return None


def _until_finished(
    read: ReadConfig, control: ControlClient, name: str, *, to_deploy: bool
) -> tuple[Mistake, ...] | None:
    """The mistakes; None when the controller is another by now, which knows nothing of the check."""
    progress = BuildProgress()
    while True:
        try:
            answer = control.check(name, LOOK_EVERY_S)
        except ControlRefused as error:
            if error.status != _UNKNOWN:
                raise
            return None
        if to_deploy and answer.overtaken_at_s is not None:
            fail(replaced_by(read.checked.applications, answer.overtaken_at_s), 1)
        if answer.finished:
            return answer.mistakes
        progress.show(answer.progress)


class BuildProgress:
    """What takes long, a line whenever it is something else."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def show(self, progress: dict[str, str]) -> None:
        for app, text in progress.items():
            if self._said.get(app) != text:
                self._said[app] = text
                say(f"{app}: {text}")


def refuse(read: ReadConfig, mistakes: tuple[Mistake, ...]) -> NoReturn:
    """Say what is wrong, and end: with 2 if the file is wrong, with 1 if it is what the file names."""
    for line in read.file.lines_of(mistakes):
        say(line)
    if any(each.of_config for each in mistakes):
        fail(f"{read.file.name} is wrong; nothing was started or changed.", 2)
    fail(f"{read.file.name} cannot be deployed; nothing was started or changed.", 1)
