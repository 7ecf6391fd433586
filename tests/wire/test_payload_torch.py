"""PyTorch's tensors: out of band where they are plain numbers, PyTorch's own way where they are not."""

from __future__ import annotations

import pickle  # noqa: TID251 - users do
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from salver.wire.payload import dump_definition, dump_value, load_definition, load_value

torch = pytest.importorskip("torch")

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.complex64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.bool,
    torch.float8_e4m3fn,
]


def through(value: object) -> Any:
    return load_value(bytes(dump_value(value)))


def out_of_band(value: object) -> int:
    """How many buffers were kept out of the pickle."""
    return int.from_bytes(bytes(dump_value(value))[:4], "little")


def same(a: Any, b: Any) -> bool:
    """Equal in everything; bit by bit, since not every dtype can be compared."""
    if (type(a), a.dtype, a.shape, a.requires_grad) != (type(b), b.dtype, b.shape, b.requires_grad):
        return False
    a, b = (tensor.detach().resolve_conj().contiguous().reshape(-1).view(torch.uint8) for tensor in (a, b))
    return bool((a == b).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_travels_out_of_band(dtype: Any) -> None:
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    assert out_of_band(tensor) == 1
    assert same(through(tensor), tensor)


base = torch.arange(24, dtype=torch.float32).reshape(4, 6)


@pytest.mark.parametrize(
    "tensor",
    [
        base.t(),
        base[1:3, ::2],
        base[2],
        torch.tensor(3.5),
        torch.nn.Parameter(torch.ones(2, 2)),
        torch.nn.Parameter(torch.ones(2), requires_grad=False),
        torch.ones(3, requires_grad=True),
        torch.ones(2, 2, dtype=torch.complex64).conj(),
        torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.ones(1).expand(1),
    ],
    ids=[
        "transposed",
        "strided",
        "offset",
        "0-dim",
        "parameter",
        "frozen-parameter",
        "requires-grad",
        "conjugate",
        "channels-last",
        "expanded-to-itself",
    ],
)
def test_every_layout_travels_out_of_band(tensor: Any) -> None:
    assert out_of_band(tensor) == 1
    result = through(tensor)
    assert same(result, tensor)
    assert result.is_contiguous()


@pytest.mark.parametrize("tensor", [torch.empty(0), torch.empty(3, 0, dtype=torch.int8), torch.nn.Parameter()])
def test_empty_tensors_have_no_buffer(tensor: Any) -> None:
    assert out_of_band(tensor) == 0
    assert same(through(tensor), tensor)


def test_the_graph_behind_a_tensor_stays_at_home() -> None:
    leaf = torch.ones(3, requires_grad=True)
    result = through(leaf * 2)
    assert result.requires_grad
    assert result.is_leaf
    (result * 2).sum().backward()
    assert result.grad.tolist() == [2, 2, 2]
    assert leaf.grad is None


def test_a_small_view_of_something_large_travels_alone() -> None:
    view = torch.zeros(1_000_000)[10:20]
    assert len(bytes(dump_value(view))) < 1000
    assert through(view).untyped_storage().nbytes() == view.nbytes


def test_a_broadcast_view_is_not_blown_up() -> None:
    tensor = torch.ones(1).expand(1_000_000)
    assert out_of_band(tensor) == 0
    assert len(bytes(dump_value(tensor))) < 10_000
    assert through(tensor).shape == (1_000_000,)


@pytest.mark.parametrize(
    ("make", "dense_parts"),
    [
        (lambda: torch.eye(3).to_sparse(), 2),
        (lambda: torch.eye(3).to_sparse_csr(), 3),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), 0),
        (lambda: torch.ones(3, device="meta"), 0),
    ],
    ids=["sparse", "csr", "quantized", "meta"],
)
@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_what_is_not_plain_numbers_goes_pytorchs_own_way(make: Any, dense_parts: int) -> None:
    tensor = make()
    assert out_of_band(tensor) == dense_parts
    result = through(tensor)
    assert (result.layout, result.device, result.dtype) == (tensor.layout, tensor.device, tensor.dtype)
    if tensor.device.type == "cpu":
        dense = [each.dequantize() if each.is_quantized else each.to_dense() for each in (result, tensor)]
        assert torch.equal(*dense)


def test_tensors_with_attributes_and_subclasses_keep_them() -> None:
    tensor = torch.ones(3)
    tensor.label = "mine"
    assert through(tensor).label == "mine"
    buffer = torch.nn.Buffer(torch.ones(3))
    assert torch.equal(through(buffer), buffer)


@dataclass
class Batch:
    inputs: Any
    masks: list[Any]


def test_tensors_inside_of_things_and_once_only() -> None:
    tensor = torch.arange(5)
    batch = Batch(tensor, [tensor, {"again": tensor}, torch.ones(2)])
    assert out_of_band(batch) == 2
    result = through(batch)
    assert same(result.inputs, tensor)
    assert result.masks[0] is result.inputs
    assert result.masks[1]["again"] is result.inputs


def test_a_module_travels_with_its_parameters_out_of_band() -> None:
    module = torch.nn.Linear(3, 2)
    assert out_of_band(module) == 2
    result = through(module)
    assert torch.equal(result(torch.ones(3)), module(torch.ones(3)))
    assert isinstance(result.weight, torch.nn.Parameter)


def test_what_cloudpickle_must_do_has_its_tensors_out_of_band_too() -> None:
    tensor = torch.arange(5)
    function = lambda: tensor + 1  # noqa: E731
    assert out_of_band(function) == 1
    assert through(function)().tolist() == [1, 2, 3, 4, 5]


def test_what_arrives_may_be_written_to() -> None:
    tensor = torch.zeros(4)
    result = through(tensor)
    result[0] = 1
    assert tensor[0] == 0


def test_other_pickles_are_as_before() -> None:
    dump_value(torch.ones(3))
    assert b"salver" not in pickle.dumps(torch.ones(3))
    assert torch.equal(load_definition(dump_definition(torch.ones(3))), torch.ones(3))


IMPORTS_NOTHING = """
import sys
from salver.wire.payload import dump_value
dump_value(([1, 2], {"k": object}))
dump_value(lambda: 1)
print([name for name in ("torch", "numpy", "ctypes", "salver.wire.tensors") if name in sys.modules])
"""


def test_nothing_of_this_is_imported_where_there_is_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS_NOTHING], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
