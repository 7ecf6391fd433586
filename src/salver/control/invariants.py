"""What must hold after every event, whatever happened; tests check it each time, an operator may."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from salver.control.application import Application
from salver.control.deployment import Membership
from salver.control.fleet import Fleet
from salver.control.replica import LASTING, Replica, State
from salver.control.routing_table import routing_table
from salver.wire.snapshot import Snapshot


def check_invariants(applications: Mapping[str, Application], fleet: Fleet, snapshot: Snapshot) -> None:
    """Raise AssertionError that says which invariant is broken, and the story of the replica."""
    _check_slots(fleet)
    for replica in fleet:
        _check_replica(replica)
        _check_ownership(replica, applications)
    for application in applications.values():
        _check_sizes(application)
    _check_snapshot(applications, fleet, snapshot)


def _check_slots(fleet: Fleet) -> None:
    for slot, count in Counter(replica.slot for replica in fleet).items():
        owners = [replica.story() for replica in fleet if replica.slot == slot]
        assert count == 1, f"slot {slot} has {count} owners:\n" + "\n".join(owners)


def _check_replica(replica: Replica) -> None:
    story = replica.story()
    assert replica.state is not State.GONE, f"a replica that is gone is still in the fleet: {story}"
    assert replica.replica_id.startswith(f"{replica.deployment_id}#"), f"misnamed: {story}"
    unending = replica.deadline is None
    assert unending == (replica.state in LASTING), f"only one that runs has no deadline: {story}"
    if replica.state not in (State.STARTING, State.KILLING):
        assert replica.address, f"in {replica.state.value} without an address: {story}"


def _check_ownership(replica: Replica, applications: Mapping[str, Application]) -> None:
    if replica.stopping:
        return
    application = applications.get(replica.deployment_id.app)
    deployment = application.deployments.get(replica.deployment_id.name) if application else None
    assert deployment is not None, f"belongs to nothing, yet is not stopping: {replica.story()}"
    assert deployment.membership is not Membership.REMOVED, f"outlives its deployment: {replica.story()}"


def _check_sizes(application: Application) -> None:
    for deployment in application.deployments.values():
        live = [replica for replica in deployment.replicas if not replica.stopping]
        current = [replica for replica in live if replica.version == deployment.spec.version and not replica.worn]
        wanted = deployment.wanted
        stories = "\n".join(replica.story() for replica in live)
        assert len(current) <= wanted, f"{deployment.id} has {len(current)} of {wanted} replicas:\n{stories}"
        assert len(live) <= 2 * wanted, f"{deployment.id}, target {wanted}, surged beyond twice that:\n{stories}"


def _check_snapshot(applications: Mapping[str, Application], fleet: Fleet, snapshot: Snapshot) -> None:
    table = routing_table(applications.values(), snapshot.epoch, snapshot.version)
    assert table == snapshot, f"published {snapshot}, but the state says {table}"
    routed = {replica.replica_id for deployment in snapshot.deployments for replica in deployment.replicas}
    for replica in fleet:
        is_routed = replica.replica_id in routed
        assert not is_routed or replica.serving, f"routed, yet it cannot serve: {replica.story()}"
        assert is_routed or replica.troubled or not replica.serving, f"serves, yet is not routed: {replica.story()}"
    prefixes = Counter(app.route_prefix for app in snapshot.applications if app.route_prefix is not None)
    for prefix, count in prefixes.items():
        assert count == 1, f"{count} applications have route prefix {prefix}: {snapshot.applications}"
