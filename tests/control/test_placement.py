"""Placement: amounts that add up, GPUs that are packed, reasons that people understand."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.control.placement import Unplaceable, place
from salver.records import Capacity, GpuShares, Resources

GIB = 1024.0**3
Taken = list[tuple[Resources, GpuShares]]


def placed(capacity: Capacity, *wanted: Resources) -> Taken:
    """Place all of them, in this order; every one must find room."""
    taken: Taken = []
    for each in wanted:
        gpus = place(capacity, taken, each)
        assert not isinstance(gpus, Unplaceable), gpus.reason
        taken.append((each, gpus))
    return taken


def reason(capacity: Capacity, taken: Taken, wanted: Resources) -> str:
    answer = place(capacity, taken, wanted)
    assert isinstance(answer, Unplaceable), answer
    return answer.reason


# --- amounts --------------------------------------------------------------------------------------------


def test_who_wants_nothing_always_fits() -> None:
    full = placed(Capacity(num_cpus=1), Resources(num_cpus=1))
    assert place(Capacity(num_cpus=1), full, Resources()) == ()
    assert place(Capacity(), [], Resources()) == ()


@pytest.mark.parametrize("parts", [3, 6, 7, 10, 49, 100])
def test_parts_of_one_fit_in_one_whatever_their_rounding(parts: int) -> None:
    share = Resources(num_cpus=1 / parts, num_gpus=1 / parts, custom={"licence": 1 / parts})
    capacity = Capacity(num_cpus=1, gpus=(0,), custom={"licence": 1})
    taken = placed(capacity, *[share] * parts)
    assert isinstance(place(capacity, taken, share), Unplaceable)


def test_ten_tenths_fit_in_one() -> None:
    tenth = Resources(num_cpus=0.1)
    assert len(placed(Capacity(num_cpus=1), *[tenth] * 10)) == 10


def test_memory_and_custom_resources_are_accounted() -> None:
    capacity = Capacity(memory=8 * GIB, custom={"licence": 2})
    one = Resources(memory=4 * GIB, custom={"licence": 1})
    taken = placed(capacity, one, one)
    assert isinstance(place(capacity, taken, Resources(memory=1)), Unplaceable)
    assert isinstance(place(capacity, taken, Resources(custom={"licence": 0.5})), Unplaceable)
    assert place(capacity, taken[:1], one) == ()


# --- GPUs -----------------------------------------------------------------------------------------------


def test_whole_gpus_are_nobody_elses() -> None:
    capacity = Capacity(gpus=(0, 1, 2, 3))
    taken = placed(capacity, Resources(num_gpus=1), Resources(num_gpus=0.5), Resources(num_gpus=2))
    assert [gpus for _, gpus in taken] == [((0, 1.0),), ((1, 0.5),), ((2, 1.0), (3, 1.0))]


def test_fractions_go_to_the_fullest_gpu_that_has_room() -> None:
    capacity = Capacity(gpus=(0, 1, 2))
    wanted = [Resources(num_gpus=share) for share in (0.5, 0.6, 0.3, 0.2, 0.4)]
    taken = placed(capacity, *wanted)
    #             0: .5       1: .6       1: .9       0: .7       2: .4
    assert [gpus[0][0] for _, gpus in taken] == [0, 1, 1, 0, 2]


def test_gpus_keep_the_numbers_that_the_machine_gave_them() -> None:
    taken = placed(Capacity(gpus=(3, 7)), Resources(num_gpus=0.5), Resources(num_gpus=1))
    assert [gpus for _, gpus in taken] == [((3, 0.5),), ((7, 1.0),)]


def test_above_one_only_whole_gpus() -> None:
    assert "above 1, only whole GPUs" in reason(Capacity(gpus=(0, 1)), [], Resources(num_gpus=1.5))


# --- reasons --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Resources(num_gpus=1), "needs 1 GPU, 0 of 2 are free"),
        (Resources(num_gpus=4), "needs 4 GPUs, this machine has 2"),
        (Resources(num_gpus=0.6), "needs 0.6 of a GPU, none of its 2 GPUs has more than 0.5 free"),
        (Resources(num_cpus=2), "needs 2 CPUs, 1.5 of 4 are free"),
        (Resources(num_cpus=8), "needs 8 CPUs, this machine has 4"),
        (Resources(memory=4 * GIB), "needs 4 GiB of memory, 2.5 GiB of 8 GiB are free"),
        (Resources(memory=100 * GIB), "needs 100 GiB of memory, this machine has 8 GiB"),
        (Resources(custom={"licence": 2}), "needs 2 of resource 'licence', 1 of 2 is free"),
        (Resources(custom={"tape": 1}), "needs 1 of resource 'tape', this machine has 0"),
        (Resources(custom={"accelerator_type:A100": 0.001}), "needs a GPU of type A100, this machine has T4"),
        (Resources(num_cpus=8, num_gpus=3), "needs 3 GPUs, this machine has 2; needs 8 CPUs, this machine has 4"),
    ],
)
def test_reasons_are_for_people(wanted: Resources, expected: str) -> None:
    capacity = Capacity(num_cpus=4, gpus=(0, 1), memory=8 * GIB, custom={"licence": 2, "accelerator_type:T4": 1})
    taken: Taken = [
        (Resources(num_cpus=2.5, num_gpus=0.5, memory=5.5 * GIB, custom={"licence": 1}), ((0, 0.5),)),
        (Resources(num_gpus=0.6), ((1, 0.6),)),
    ]
    assert reason(capacity, taken, wanted) == expected


def test_a_machine_without_gpus_says_so() -> None:
    assert reason(Capacity(), [], Resources(num_gpus=1)) == "needs 1 GPU, this machine has 0"
    assert reason(Capacity(), [], Resources(num_gpus=0.5)) == "needs 0.5 of a GPU, this machine has 0"
    only = placed(Capacity(gpus=(0,)), Resources(num_gpus=0.5))
    assert reason(Capacity(gpus=(0,)), only, Resources(num_gpus=0.6)) == "needs 0.6 of a GPU, its GPU has 0.5 free"
    assert "this machine has none" in reason(Capacity(), [], Resources(custom={"accelerator_type:T4": 0.001}))


# --- properties -----------------------------------------------------------------------------------------

AMOUNTS = st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 1.0, 1.5, 2.0, 3.0])
GPU_AMOUNTS = st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.75, 1.0, 2.0, 3.0])
WANTED = st.builds(
    Resources,
    num_cpus=AMOUNTS,
    num_gpus=GPU_AMOUNTS,
    memory=st.sampled_from([0.0, GIB, 3 * GIB]),
    custom=st.dictionaries(st.sampled_from(["a", "b"]), AMOUNTS, max_size=2),
)
CAPACITIES = st.builds(
    Capacity,
    num_cpus=AMOUNTS.map(lambda amount: 4 * amount),
    gpus=st.lists(st.integers(0, 15), unique=True, max_size=4).map(tuple),
    memory=st.sampled_from([0.0, 8 * GIB]),
    custom=st.dictionaries(st.sampled_from(["a", "b"]), AMOUNTS, max_size=2),
)


def assert_not_overcommitted(capacity: Capacity, taken: Taken) -> None:
    assert math.fsum(each.num_cpus for each, _ in taken) <= capacity.num_cpus + 1e-5
    assert math.fsum(each.memory for each, _ in taken) <= capacity.memory + 1e-5
    for name in ("a", "b"):
        assert math.fsum(each.custom.get(name, 0) for each, _ in taken) <= capacity.custom.get(name, 0) + 1e-5
    for wanted, gpus in taken:
        assert math.isclose(math.fsum(share for _, share in gpus), wanted.num_gpus, abs_tol=1e-9)
        assert len({gpu for gpu, _ in gpus}) == len(gpus)
        assert {gpu for gpu, _ in gpus} <= set(capacity.gpus)
    for gpu in capacity.gpus:
        shares = [share for _, gpus in taken for index, share in gpus if index == gpu]
        assert math.fsum(shares) <= 1 + 1e-5
        assert len(shares) == 1 or 1.0 not in shares


@given(CAPACITIES, st.lists(st.tuples(WANTED, st.booleans(), st.integers(0, 100)), max_size=25))
def test_nothing_is_ever_reserved_twice_and_freed_is_free_again(
    capacity: Capacity, story: list[tuple[Resources, bool, int]]
) -> None:
    """Replicas come and go. Who is refused would have made it too much; who leaves can come back at once."""
    taken: Taken = []
    for wanted, somebody_leaves, who in story:
        if somebody_leaves and taken:
            left, _ = taken.pop(who % len(taken))
            again = place(capacity, taken, left)
            assert not isinstance(again, Unplaceable), again.reason
        gpus = place(capacity, taken, wanted)
        if isinstance(gpus, Unplaceable):
            assert gpus.reason
            continue
        taken.append((wanted, gpus))
        assert_not_overcommitted(capacity, taken)


@given(CAPACITIES, st.lists(WANTED.filter(lambda each: not 0 < each.num_gpus < 1), max_size=8), st.randoms())
def test_the_order_does_not_decide_whether_all_fit(
    capacity: Capacity, wanted: list[Resources], random: Random
) -> None:
    """For amounts and whole GPUs. (Fractions of many sizes are a packing problem, which no order solves always.)"""
    shuffled = list(wanted)
    random.shuffle(shuffled)
    assert all_fit(capacity, wanted) == all_fit(capacity, shuffled)


@given(st.integers(0, 4), st.lists(st.sampled_from([0.5, 1.0, 2.0]), max_size=8), st.randoms())
def test_nor_does_it_for_halves_among_whole_gpus(gpus: int, amounts: list[float], random: Random) -> None:
    capacity = Capacity(gpus=tuple(range(gpus)))
    wanted = [Resources(num_gpus=amount) for amount in amounts]
    whole = sum(int(amount) for amount in amounts if amount >= 1)
    fits = math.ceil(amounts.count(0.5) / 2) + whole <= gpus
    random.shuffle(wanted)
    assert all_fit(capacity, wanted) == fits


def all_fit(capacity: Capacity, wanted: list[Resources]) -> bool:
    taken: Taken = []
    for each in wanted:
        gpus = place(capacity, taken, each)
        if isinstance(gpus, Unplaceable):
            return False
        taken.append((each, gpus))
    return True
