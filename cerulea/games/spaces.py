"""Gymnasium's spaces as a schema: what is seen as named numbers, what is done as discrete choices.

In:      a space of an environment.
Out:     a Reader of its observations; heads, and what makes an action of one choice from each; masks as one row.
Kept:    a space of another kind, a number that is not finite and a mask that fits no action are refused by name.
Not here: environments (`gymnasium_in`, `vector_in`, `pettingzoo_in`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from cerulea.core.errors import GameBroken, GameInvalid
from cerulea.games.game import BoolArray, FloatArray, Head

MOST_BINS = 1_001  # each value is an action of its own
BINS = 11  # of each dimension of an action that is a number
LARGE = 100.0  # numbers whose bounds are beyond this, such as pixels, are scaled to [-1, 1]; others stay as they are
ENDLESS = 1e6  # bounds beyond this say nothing of the scale


@dataclass(frozen=True, slots=True)
class Reader:
    """A name for each number that an observation becomes, and what makes them."""

    names: tuple[str, ...]
    read: Callable[[Any], FloatArray]


def reader(space: Any, name: str = "x") -> Reader:
    """What reads observations of a space.

    Raises:
        GameInvalid: a space of another kind.
    """
    if isinstance(space, spaces.Box):
        return Reader(_numbered(name, space.shape), _box(space))
    if isinstance(space, spaces.Discrete):
        count, start = int(space.n), int(space.start)
        one = np.eye(count, dtype=np.float32)
        return Reader(tuple(f"{name}_is_{i}" for i in range(count)), lambda value: one[int(value) - start])
    if isinstance(space, spaces.MultiBinary):
        return Reader(_numbered(name, space.shape), lambda value: np.asarray(value, np.float32).ravel())
    if isinstance(space, spaces.MultiDiscrete):
        sizes, starts = space.nvec.ravel().astype(np.int64), space.start.ravel()
        first = np.concatenate([[0], np.cumsum(sizes)[:-1]])

        def read_many(value: Any) -> FloatArray:
            out = np.zeros(int(sizes.sum()), np.float32)
            out[first + np.ravel(value) - starts] = 1.0
            return out

        return Reader(tuple(f"{name}_{i}_is_{k}" for i, n in enumerate(sizes) for k in range(int(n))), read_many)
    if isinstance(space, spaces.Dict):
        return _together(list(space.spaces), [reader(part, f"{name}_{key}") for key, part in space.spaces.items()])
    if isinstance(space, spaces.Tuple):
        parts = [reader(part, f"{name}_{i}") for i, part in enumerate(space.spaces)]
        return _together(list(range(len(parts))), parts)
    raise GameInvalid(
        f"Observations of {type(space).__name__} cannot be read.",
        why="Numbers (Box), choices (Discrete, MultiDiscrete, MultiBinary), and Dict and Tuple of these can.",
        fix="Wrap the environment so that it shows one of these.",
    )


def _numbered(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"{name}_{i}" for i in range(int(np.prod(shape, dtype=np.int64))))


def _box(space: Any) -> Callable[[Any], FloatArray]:
    low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        far = np.maximum(np.abs(low), np.abs(high))
        scaled = (far > LARGE) & (far <= ENDLESS) & (high > low)
        slope = np.where(scaled, 2 / np.where(scaled, high - low, 1.0), 1.0)
        shift = np.where(scaled, -1 - slope * np.where(scaled, low, 0.0), 0.0)
    if not scaled.any():
        return lambda value: np.asarray(value, np.float32).ravel()
    return lambda value: (np.asarray(value, np.float64).ravel() * slope + shift).astype(np.float32)


def _together(keys: list[Any], parts: list[Reader]) -> Reader:
    names = tuple(name for part in parts for name in part.names)
    reads = [(key, part.read) for key, part in zip(keys, parts, strict=True)]
    if not reads:
        return Reader((), lambda value: np.zeros(0, np.float32))
    return Reader(names, lambda value: np.concatenate([read(value[key]) for key, read in reads]))


def without_mask(space: Any) -> tuple[Any, bool]:
    """A space without its `action_mask`, and whether it had one."""
    if not isinstance(space, spaces.Dict) or "action_mask" not in space.spaces:
        return space, False
    return spaces.Dict({key: part for key, part in space.spaces.items() if key != "action_mask"}), True


def choices(space: Any, bins: int = BINS) -> tuple[tuple[Head, ...], Callable[[NDArray[np.int32]], Any]]:
    """An action space as heads, and what makes an action of it from one choice of each head.

    A Box becomes one head for each of its numbers, with `bins` values from bound to bound (a Box of whole numbers at
    most as many as there are).

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
        return _binned(space, bins)
    raise GameInvalid(
        f"Actions of {type(space).__name__} cannot be chosen.",
        why="Discrete, MultiDiscrete, MultiBinary and bounded Box can.",
        fix="Wrap the environment so that it takes one of these.",
    )


def _binned(space: Any, bins: int) -> tuple[tuple[Head, ...], Callable[[NDArray[np.int32]], Any]]:
    if not isinstance(bins, int) or not 2 <= bins <= MOST_BINS:
        raise GameInvalid(f"game.options.bins is {bins!r:.40}.", fix=f"Use 2 to {MOST_BINS:,}.")
    low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
    values = [np.linspace(a, b, bins) for a, b in zip(low, high, strict=True)]
    if np.issubdtype(space.dtype, np.integer):
        values = [np.unique(np.rint(own)) for own in values]
    heads = tuple(Head(name=f"action_{i}", actions=tuple(f"{v:.6g}" for v in own)) for i, own in enumerate(values))

    def act(chosen: NDArray[np.int32]) -> Any:
        plain = np.array([own[k] for own, k in zip(values, chosen, strict=True)]).reshape(space.shape)
        # A bound of 32 bits, read with 64 and rounded back, could lie beyond itself.
        return np.clip(plain.astype(space.dtype), space.low, space.high)

    return heads, act


def read_mask(name: str, mask: Any, heads: tuple[Head, ...]) -> BoolArray:
    """An `action_mask` as one row over all heads: given as that row, or as one part for each head.

    Raises:
        GameBroken: it is of another length.
    """
    parts = mask if isinstance(mask, tuple | list) else [mask]
    row = np.concatenate([np.asarray(part).ravel() for part in parts]) if len(parts) else np.zeros(0)
    if len(row) != sum(head.size for head in heads):
        raise GameBroken(
            f"{name} gives an action_mask of {len(row)} entries for {sum(head.size for head in heads)} actions.",
            why="A mask says of every action of every head whether it is legal.",
            fix="Correct the environment's action_mask.",
        )
    return row.astype(np.bool_)


def check_seen(name: str, seen: FloatArray, reward: float = 0.0) -> None:
    """Refuse what nothing can be learned from.

    Raises:
        GameBroken: something is not finite.
    """
    if not (np.isfinite(seen).all() and np.isfinite(reward)):
        what = "shows" if np.isfinite(reward) else "pays"
        raise GameBroken(
            f"{name} {what} a number that is not finite.",
            why="Nothing can be learned from it, and it would spoil everything else.",
            fix=f"Correct what the environment {what}.",
        )


def check_legal(name: str, mask: BoolArray, heads: tuple[Head, ...]) -> None:
    """Refuse a mask without any legal action for who is to act.

    Raises:
        GameBroken: a head has none.
    """
    first = 0
    for head in heads:
        if not mask[first : first + head.size].any():
            raise GameBroken(
                f"{name} leaves a player who is to act without any legal action of {head.name!r}.",
                why="Whoever acts needs one; who does not act may have none.",
                fix="End the match, or add an action that does nothing.",
            )
        first += head.size
