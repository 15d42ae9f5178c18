"""Gymnasium's spaces as a schema: what is seen as named numbers, what is done as discrete choices.

Not here: environments (`gymnasium_in`, `pettingzoo_in`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from cerulea.core.errors import GameInvalid
from cerulea.games.game import Head

BINS = 11  # of each dimension of an action that is a number
LARGE = 100.0  # bounds beyond this say nothing of the scale


def flat_names(space: Any, name: str = "x") -> tuple[str, ...]:
    """A name for each number that an observation becomes.

    Raises:
        GameInvalid: a space of another kind.
    """
    if isinstance(space, spaces.Box):
        size = int(np.prod(space.shape, dtype=np.int64))
        return tuple(f"{name}_{i}" for i in range(size))
    if isinstance(space, spaces.Discrete):
        return tuple(f"{name}_is_{i}" for i in range(int(space.n)))
    if isinstance(space, spaces.MultiBinary):
        return tuple(f"{name}_{i}" for i in range(int(np.prod(space.shape, dtype=np.int64))))
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(f"{name}_{i}_is_{k}" for i, n in enumerate(space.nvec.ravel()) for k in range(int(n)))
    if isinstance(space, spaces.Dict):
        return tuple(n for key in space.spaces for n in flat_names(space[key], f"{name}_{key}"))
    if isinstance(space, spaces.Tuple):
        return tuple(n for i, part in enumerate(space.spaces) for n in flat_names(part, f"{name}_{i}"))
    raise GameInvalid(
        f"Observations of {type(space).__name__} cannot be read.",
        why="Numbers (Box), choices (Discrete, MultiDiscrete, MultiBinary), and Dict and Tuple of these can.",
        fix="Wrap the environment so that it shows one of these.",
    )


def flatten(space: Any, value: Any) -> NDArray[np.float32]:
    """An observation as numbers, in the order of `flat_names`; bounded ones are scaled to [-1, 1]."""
    if isinstance(space, spaces.Box):
        plain = np.asarray(value, np.float32).ravel()
        low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
        bounded = (np.abs(low) >= 2) | (np.abs(high) > 2)
        scaled = bounded & np.isfinite(low) & np.isfinite(high) & (high > low) & (np.abs(high) <= 1e6)
        scaled &= (np.abs(low) > LARGE) | (np.abs(high) > LARGE)
        if scaled.any():
            wide = np.where(scaled, high - low, 1.0)
            plain = np.where(scaled, 2 * (plain - np.where(scaled, low, 0)) / wide - 1, plain).astype(np.float32)
        return plain
    if isinstance(space, spaces.Discrete):
        return np.asarray(np.arange(int(space.n)) == int(value) - int(space.start), np.float32)
    if isinstance(space, spaces.MultiBinary):
        return np.asarray(value, np.float32).ravel()
    if isinstance(space, spaces.MultiDiscrete):
        parts = [
            np.eye(int(n), dtype=np.float32)[int(v)] for n, v in zip(space.nvec.ravel(), np.ravel(value), strict=True)
        ]
        return np.concatenate(parts)
    if isinstance(space, spaces.Dict):
        return np.concatenate([flatten(space[key], value[key]) for key in space.spaces])
    return np.concatenate([flatten(part, v) for part, v in zip(space.spaces, value, strict=True)])


def choices(space: Any) -> tuple[tuple[Head, ...], Callable[[NDArray[np.int32]], Any]]:
    """An action space as heads, and what makes an action of it from one choice of each head.

    A Box becomes one head for each of its numbers, with BINS values between its bounds.

    Raises:
        GameInvalid: a space of another kind.
    """
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        head = Head(name="action", actions=tuple(str(i + start) for i in range(int(space.n))))
        return (head,), lambda chosen: int(chosen[0]) + start
    if isinstance(space, spaces.MultiDiscrete):
        sizes = [int(n) for n in space.nvec.ravel()]
        heads = tuple(Head(name=f"action_{i}", actions=tuple(map(str, range(n)))) for i, n in enumerate(sizes))
        return heads, lambda chosen: (np.array(chosen).reshape(space.nvec.shape) + space.start).astype(space.dtype)
    if isinstance(space, spaces.MultiBinary):
        size = int(np.prod(space.shape, dtype=np.int64))
        heads = tuple(Head(name=f"action_{i}", actions=("0", "1")) for i in range(size))
        return heads, lambda chosen: np.array(chosen, np.int8).reshape(space.shape)
    if isinstance(space, spaces.Box) and np.isfinite(space.low).all() and np.isfinite(space.high).all():
        low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
        names = [tuple(f"{v:.3g}" for v in np.linspace(a, b, BINS)) for a, b in zip(low, high, strict=True)]
        heads = tuple(Head(name=f"action_{i}", actions=own) for i, own in enumerate(names))
        step = (high - low) / (BINS - 1)
        return heads, lambda chosen: (low + step * np.asarray(chosen)).reshape(space.shape).astype(space.dtype)
    raise GameInvalid(
        f"Actions of {type(space).__name__} cannot be chosen.",
        why="Discrete, MultiDiscrete, MultiBinary and bounded Box can.",
        fix="Wrap the environment so that it takes one of these.",
    )
