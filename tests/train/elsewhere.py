"""A device that is not there: tensors on it are on the CPU in truth, and whoever forgets to move one is told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("xpu", 0)  # any that the fused optimizer knows and no test machine has
MOVING = {"to", "cpu", "copy_", "_has_compatible_shallow_copy_type", "__set__", "__get__", "__setitem__"}
HOST_ONLY = {"numpy", "__array__", "data_ptr", "untyped_storage"}


def is_there(value: Any) -> bool:
    return isinstance(value, Tensor) and getattr(value, "there", False)


class Elsewhere(TorchFunctionMode):
    """Within it `DEVICE` is like a GPU: no operation takes tensors of both sides, none there is an array."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        there = [value for value in tensors if is_there(value)]
        if there and func == Tensor.device.__get__:
            return DEVICE
        if there and name in HOST_ONLY:
            raise AssertionError(f"{name} of a tensor on the device")
        if name not in MOVING and any(not is_there(value) and value.dim() for value in tensors) and there:
            raise AssertionError(f"{name} of tensors on the device and on the CPU")
        target: Any = kwargs.get("device")
        if name == "to":
            target = next((a for a in (*args[1:], *kwargs.values()) if isinstance(a, (torch.device, str))), None)
            args = tuple(torch.device("cpu") if a == DEVICE else a for a in args)
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        lands = torch.device(target) == DEVICE if target is not None else bool(there) and name != "cpu"
        if name == "__setitem__" or name == "copy_":
            lands = is_there(args[0])
        if name in ("to", "cpu") and lands != bool(there):
            self.moved += 1
            kwargs["copy"] = True
            func, args = (Tensor.to, args) if name == "to" else (Tensor.to, (args[0], torch.device("cpu")))
        result = func(*args, **kwargs)
        if func == Tensor.data.__set__:
            args[0].there = is_there(args[1])
        mark(tree_leaves(result), lands)
        return result


def mark(values: Iterable[Any], there: bool) -> None:
    for value in values:
        if isinstance(value, Tensor) and getattr(value, "there", False) != there:
            value.there = there  # type: ignore[attr-defined]
