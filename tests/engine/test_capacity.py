"""What a machine has: read from folders that look like /proc, /sys and /dev of many machines, and from this one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from salver.engine.interface import ReplicaProcess
from salver.engine.local.capacity import StatedCapacity, capacity_of_this_machine, checked_custom
from salver.engine.local.gpus import accelerator_types, gpus_of_the_driver, numbered_entries
from salver.engine.local.reservation import reservation_variables
from salver.errors import ConfigurationError
from salver.records import Capacity, DeploymentId, GpuShares, Resources

GIB = 1024.0**3
CPUS = float(len(os.sched_getaffinity(0)))
A100 = "NVIDIA A100-SXM4-80GB"


class Machine:
    """A root folder with what the kernel of some machine says."""

    def __init__(self, root: Path, memory_kib: int = 16 * 1024**2) -> None:
        self.root = root
        self.write("proc/meminfo", f"MemTotal:       {memory_kib} kB\nMemFree:         1024 kB\n")

    def write(self, path: str, text: str = "") -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def gpu(self, minor: int, model: str = A100, device: bool = True) -> None:
        facts = (
            f"Model: \t\t {model}\nIRQ:   \t\t 42\nGPU UUID: \t GPU-{minor:08x}-0000\nVideo BIOS: \t ??.??\n"
            f"Bus Type: \t PCIe\nBus Location: \t 0000:{minor:02x}:00.0\nDevice Minor: \t {minor}\n"
        )
        self.write(f"proc/driver/nvidia/gpus/0000:{minor:02x}:00.0/information", facts)
        if device:
            self.write(f"dev/nvidia{minor}")

    def capacity(self, visible: str | None = None, **stated: object) -> Capacity:
        environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        return capacity_of_this_machine(StatedCapacity(**stated), root=self.root, environment=environment)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# --- CPUs and memory ------------------------------------------------------------------------------------


def test_a_machine_without_control_groups_and_gpus(machine: Machine) -> None:
    assert machine.capacity() == Capacity(num_cpus=CPUS, memory=16 * GIB)


def test_limits_of_version_2_in_any_group_above(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "0::/user.slice/app.service\n")
    machine.write("sys/fs/cgroup/user.slice/app.service/cpu.max", "max 100000\n")
    machine.write("sys/fs/cgroup/user.slice/app.service/memory.max", "max\n")
    machine.write("sys/fs/cgroup/user.slice/cpu.max", "50000 100000\n")
    machine.write("sys/fs/cgroup/user.slice/memory.max", f"{2 * 1024**3}\n")
    assert machine.capacity() == Capacity(num_cpus=0.5, memory=2 * GIB)


def test_limits_of_version_2_in_a_container_that_is_told_the_path_outside(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "0::/kubepods/pod1/container1\n")
    machine.write("sys/fs/cgroup/cpu.max", "75000 100000\n")
    machine.write("sys/fs/cgroup/memory.max", f"{1024**3}\n")
    assert machine.capacity() == Capacity(num_cpus=0.75, memory=GIB)


def test_limits_of_version_1(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "3:cpu,cpuacct:/docker/abc\n2:memory:/docker/abc\n1:name=systemd:/docker/abc\n")
    machine.write("sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "25000\n")
    machine.write("sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000\n")
    machine.write("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", f"{3 * 1024**3}\n")
    assert machine.capacity() == Capacity(num_cpus=0.25, memory=3 * GIB)


def test_no_limits_in_version_1_are_none(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "3:cpu:/\n2:memory:/\n")
    machine.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    machine.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert machine.capacity() == Capacity(num_cpus=CPUS, memory=16 * GIB)


@pytest.mark.parametrize("text", ["", "nonsense\n", "1 2 3\n", "100000 0\n", "\0\0\n"])
def test_limits_that_make_no_sense_are_none(machine: Machine, text: str) -> None:
    machine.write("proc/self/cgroup", "0::/\n")
    machine.write("sys/fs/cgroup/cpu.max", text)
    machine.write("sys/fs/cgroup/memory.max", text if " " not in text else "")
    assert machine.capacity() == Capacity(num_cpus=CPUS, memory=16 * GIB)


def test_what_is_stated_goes_before_what_is_found(machine: Machine) -> None:
    stated = machine.capacity(num_cpus=64.0, num_gpus=2, memory=5.0, custom={"licence": 2})
    assert stated == Capacity(num_cpus=64.0, gpus=(0, 1), memory=5.0, custom={"licence": 2})


@pytest.mark.parametrize(
    ("resources", "problem"),
    [
        ([1], "map names to amounts"),
        ({"licence": -1}, "at least 0, not 'licence': -1"),
        ({"licence": True}, "numbers of at least 0"),
        ({"licence": float("inf")}, "numbers of at least 0"),
        ({1: 1}, "names that are texts, not 1"),
        ({"GPU": 1}, "not contain 'GPU', which is stated with num_gpus"),
    ],
)
def test_custom_resources_that_make_no_sense_are_refused(resources: object, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        checked_custom(resources)


# --- GPUs -----------------------------------------------------------------------------------------------


def test_gpus_and_what_they_are_called(machine: Machine) -> None:
    for minor in (0, 1):
        machine.gpu(minor)
    machine.gpu(2, "Tesla T4")
    capacity = machine.capacity()
    assert capacity.gpus == (0, 1, 2)
    assert set(capacity.custom) == {"accelerator_type:A100", "accelerator_type:A100-80G", "accelerator_type:T4"}


def test_in_a_container_only_gpus_whose_device_is_there_count(machine: Machine) -> None:
    for minor in range(4):
        machine.gpu(minor, device=minor in {1, 3})
    assert machine.capacity().gpus == (0, 1)  # CUDA, too, counts what it can open
    assert [gpu.uuid for gpu in gpus_of_the_driver(machine.root)] == ["GPU-00000001-0000", "GPU-00000003-0000"]


def test_where_devices_are_made_at_first_use_they_need_not_be_there(machine: Machine) -> None:
    machine.gpu(0, device=False)
    assert machine.capacity().gpus == ()
    machine.write("usr/bin/nvidia-modprobe")
    assert machine.capacity().gpus == (0,)


def test_where_nobody_tells_devices_are_counted(machine: Machine) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        machine.write(f"dev/{name}")
    assert machine.capacity().gpus == (0, 1)


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("2", (2,)),
        ("3,1", (3, 1)),
        (" 0 , 2 ", (0, 2)),
        ("0,-1,1", (0,)),  # as CUDA does: nothing after an entry that names none
        ("1,9,2", (1,)),
        ("1,1", (1,)),
        ("GPU-00000003-0000,GPU-00000001", (0, 1)),  # positions: their entries are what replicas get
        ("GPU-00000003-0000,GPU-ffffffff", (0,)),
        ("MIG-0f0f0f0f-0000", (0,)),
    ],
)
def test_only_visible_gpus_count(machine: Machine, visible: str, gpus: tuple[int, ...]) -> None:
    for minor in range(4):
        machine.gpu(minor)
    assert machine.capacity(visible).gpus == gpus


def test_types_are_those_of_visible_gpus(machine: Machine) -> None:
    machine.gpu(0, "NVIDIA H200")
    machine.gpu(1, "Tesla T4")
    assert machine.capacity("GPU-00000001-0000").custom == {"accelerator_type:T4": 1}
    assert machine.capacity("0").custom == {"accelerator_type:H200": 1}
    assert machine.capacity(num_gpus=1).custom == {"accelerator_type:H200": 1}
    assert machine.capacity(num_gpus=0).custom == {}


def test_no_more_can_be_stated_than_the_variable_shows(machine: Machine) -> None:
    assert machine.capacity("5,7", num_gpus=2).gpus == (5, 7)
    assert machine.capacity("5,7", num_gpus=1).gpus == (5,)
    with pytest.raises(ConfigurationError, match="num_gpus=3: CUDA_VISIBLE_DEVICES='5,7' shows 2 to this instance"):
        machine.capacity("5,7", num_gpus=3)


@pytest.mark.parametrize(
    ("model", "types"),
    [
        ("NVIDIA H200", ["H200"]),
        (A100, ["A100", "A100-80G"]),
        ("Tesla V100-PCIE-16GB", ["V100", "V100-16G"]),
        ("Tesla T4", ["T4"]),
        ("NVIDIA L40S", ["L40S"]),
        ("NVIDIA H100 80GB HBM3", ["H100", "H100-80G"]),
        ("NVIDIA GeForce RTX 4090", ["RTX-4090"]),
        ("NVIDIA RTX A6000", ["RTX-A6000"]),
        ("", []),
        ("NVIDIA Graphics Device", []),
    ],
)
def test_types_by_model(model: str, types: list[str]) -> None:
    assert accelerator_types(model) == types


# --- what replicas are told -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inherited", "shares", "expected"),
    [
        (None, ((2, 1.0), (3, 1.0)), "2,3"),
        ("2,3", ((3, 0.5),), "3"),
        ("GPU-a,GPU-b", ((1, 1.0),), "GPU-b"),
        (None, (), ""),
        ("2,3", (), ""),
    ],
)
def test_a_replica_sees_the_gpus_that_it_has(inherited: str | None, shares: GpuShares, expected: str) -> None:
    environment = {} if inherited is None else {"CUDA_VISIBLE_DEVICES": inherited}
    managed = tuple(numbered_entries(inherited)) if inherited else (0, 1, 2, 3)
    assert variables(environment, managed, shares)["CUDA_VISIBLE_DEVICES"] == expected


def test_without_gpus_the_variable_is_left_alone() -> None:
    assert variables({"CUDA_VISIBLE_DEVICES": "0"}, ()) == {}


def test_numbers_of_the_driver_mean_the_same_to_cuda() -> None:
    """By itself CUDA would count the fastest first."""
    shares: GpuShares = ((1, 1.0),)
    assert variables({}, (0, 1), shares) == {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert variables({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, (0, 1), shares) == {"CUDA_VISIBLE_DEVICES": "1"}
    assert variables({"CUDA_VISIBLE_DEVICES": "0,1"}, (0, 1), shares) == {"CUDA_VISIBLE_DEVICES": "1"}


@pytest.mark.parametrize(("cpus", "threads"), [(0.2, "1"), (1, "1"), (3.5, "3"), (8, "8")])
def test_stated_cpus_are_threads_of_libraries_unless_the_user_says_so(cpus: float, threads: str) -> None:
    assert variables({}, (), num_cpus=cpus) == {"OMP_NUM_THREADS": threads}
    assert variables({"OMP_NUM_THREADS": "5"}, (), num_cpus=cpus) == {}


def variables(
    environment: dict[str, str], managed: tuple[int, ...], shares: GpuShares = (), num_cpus: float = 0.0
) -> dict[str, str]:
    process = ReplicaProcess(
        "a#b#c", DeploymentId("a", "b"), "v", 0, gpus=shares, resources=Resources(num_cpus=num_cpus)
    )
    return reservation_variables(process, managed, environment)


# --- this machine ---------------------------------------------------------------------------------------


def test_this_machine() -> None:
    capacity = capacity_of_this_machine()
    assert 0 < capacity.num_cpus <= CPUS
    assert capacity.memory > GIB / 4
    assert len(set(capacity.gpus)) == len(capacity.gpus)


def test_asking_loads_no_cuda_and_nothing_heavy() -> None:
    script = (
        "import sys; from salver.engine.local.capacity import capacity_of_this_machine as ask; ask(); "
        "print([name for name in ('torch', 'numpy', 'pydantic') if name in sys.modules], "
        "'libcuda' in open('/proc/self/maps').read())"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.strip() == "[] False"
