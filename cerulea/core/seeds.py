"""Seeds as pure functions: the same integers give the same 64 bits on every machine and in every version."""

from __future__ import annotations

_MASK = 0xFFFFFFFFFFFFFFFF


def mixed(*values: int) -> int:
    """A 64-bit hash of integers: splitmix64 (Steele, Lea, Flood 2014) over each in turn."""
    state = 0x243F6A8885A308D3
    for value in values:
        state = (state ^ (value & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state
