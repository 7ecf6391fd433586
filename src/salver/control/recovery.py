"""What the saved target tells about a process that was found running."""

from __future__ import annotations

from msgspec.structs import replace

from salver.control.events import FoundProcess
from salver.records import ApplicationSpec, DeploymentId, DeploymentSpec, Target


class SavedSpecs:
    """The specifications in a saved target, the wanted ones and the last good ones."""

    def __init__(self, target: Target) -> None:
        self._wanted = _by_deployment(target.applications)
        self._good = _by_deployment(target.last_good)

    def of(self, process: FoundProcess) -> tuple[ApplicationSpec, DeploymentSpec] | None:
        """What the process was started with; None when nothing of its deployment is wanted.

        The code of versions before the last good one is not saved. Without a definition a replica serves on if it is
        constructed, and fails to initialize if it is not, which is what should become of it.
        """
        wanted = self._wanted.get(process.deployment)
        if wanted is None:
            return None
        for found in (wanted, self._good.get(process.deployment)):
            if found is not None and found[1].version == process.version:
                return found
        application, deployment = wanted
        return application, replace(deployment, version=process.version, definition=b"")


def _by_deployment(
    applications: tuple[ApplicationSpec, ...],
) -> dict[DeploymentId, tuple[ApplicationSpec, DeploymentSpec]]:
    return {deployment.id: (spec, deployment) for spec in applications for deployment in spec.deployments}
