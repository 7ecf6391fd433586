"""PyTorch's CPU tensors in pickles: their numbers as an out-of-band buffer, with dtype and shape beside it.

PyTorch's own way writes the whole storage behind a tensor into the middle of the pickle, which takes several copies
of it and, for a view of something large, far more than the view. Here:

* what arrives is contiguous, owns what it shows, and may be written to; two tensors that share a storage arrive as
  two, the same tensor twice as one;
* a tensor that requires gradients arrives as a leaf that requires them: the graph behind it stays at home (which is
  also what PyTorch does); a ``Parameter`` stays one;
* whatever is not plain numbers in this machine's memory goes PyTorch's own way: other devices, sparse, quantized,
  nested and meta tensors, subclasses, tensors with hooks or attributes, broadcast views larger than their storage.

Nothing here imports torch in a process that has not done so by itself, except to rebuild a tensor that it received.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, cast

Reducer = Callable[[Any], Any]


def reducers(modules: Any, out_of_band: Callable[[Any], object]) -> dict[type, Reducer]:
    """Entries of a ``dispatch_table``; empty while torch is still being imported by another thread.

    Args:
        modules: ``sys.modules``.
        out_of_band: wraps a buffer so that the pickler leaves it out, ``pickle.PickleBuffer``.
    """
    torch = modules.get("torch")
    parameter: Any = getattr(modules.get("torch.nn.parameter"), "Parameter", None)
    if parameter is None or not hasattr(torch, "frombuffer"):
        return {}

    def reduce(tensor: Any) -> Any:
        numbers = _numbers(torch, tensor)
        if numbers is None:
            return tensor.__reduce_ex__(5)
        buffer = None if isinstance(numbers, int) else out_of_band(numbers)
        shape, is_parameter = tuple(tensor.shape), type(tensor) is parameter
        return rebuild_tensor, (buffer, tensor.dtype, shape, tensor.requires_grad, is_parameter)

    return {torch.Tensor: reduce, parameter: reduce}


def _numbers(torch: Any, tensor: Any) -> Any:
    """The tensor's memory as an array that keeps it alive; 0 when it is empty; None when torch must do it."""
    if (
        tensor.device.type != "cpu"
        or tensor.layout is not torch.strided
        or tensor.is_quantized
        or tensor.is_nested
        or tensor.__dict__
        or tensor._backward_hooks
    ):
        return None
    size: int = tensor.numel() * tensor.element_size()
    if not size:
        return 0
    try:
        if size > tensor.untyped_storage().nbytes():
            return None
        flat = tensor.detach().resolve_conj().resolve_neg().contiguous()
        numbers: Any = (ctypes.c_ubyte * size).from_address(flat.data_ptr())
    except (RuntimeError, NotImplementedError, ValueError):  # wrapped by functorch, or a dtype that cannot be copied
        return None
    numbers.owner = flat
    return numbers


def rebuild_tensor(
    buffer: memoryview | None, dtype: Any, shape: tuple[int, ...], requires_grad: bool, is_parameter: bool
) -> Any:
    """Undo ``reduce``, without a copy."""
    import torch as untyped_torch  # pyright: ignore[reportMissingImports]

    torch = cast(Any, untyped_torch)
    if buffer is None:
        tensor = torch.empty(shape, dtype=dtype)
    else:
        tensor = torch.frombuffer(_writable(buffer), dtype=dtype).reshape(shape)
    if is_parameter:
        return torch.nn.Parameter(tensor, requires_grad=requires_grad)
    return tensor.requires_grad_() if requires_grad else tensor


def _writable(view: memoryview) -> Any:
    """Torch knows no read-only tensors.

    A received buffer in shared memory is a read-only view of a mapping of its own, which is private to this process:
    writing there changes a copy of the page, so the mapping itself is given out.
    """
    if not view.readonly:
        return view
    whole: Any = view.obj
    with memoryview(whole) as exported:
        is_all_of_it = not exported.readonly and exported.nbytes == view.nbytes
    return whole if is_all_of_it else bytearray(view)
