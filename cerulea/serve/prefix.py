"""Which row of the KV store holds which tokens, so that a prompt that begins like another one is not read again.

In:      a prompt, whose it is, how its tokens are computed.
Out:     a row for it, and how many of its first tokens are there already.
Kept:    a team reads its own prefixes alone: what another one asked for cannot be told from the time an answer takes.
         Tokens computed in deterministic mode and others never mix. A running row is never taken from its sequence.
         Idle rows keep their tokens until somebody needs a row; the one used longest ago goes first.
Not here: keys and values themselves (`kv`), copying them (`runner`), who may run (`scheduler`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

LEAST_SHARED = 16  # tokens; shorter prefixes cost less to read than to keep account of

Scope = tuple[str, bool]  # team, deterministic
_EMPTY = np.empty(0, np.int32)


@dataclass(slots=True)
class _Row:
    """What one row holds."""

    scope: Scope | None = None
    token_T: np.ndarray = field(default_factory=lambda: _EMPTY)  # int32; keys and values of these lie in the row
    running: bool = False
    used: int = 0  # when, in takes and returns


class Rows:
    """The rows of one KV store.

    Args:
        count: rows of the store.
        copy: `copy(source, target, tokens)`, the runner's.
        release: told of a row that holds nothing any more, the runner's.
    """

    def __init__(self, count: int, copy: Callable[[int, int, int], None], release: Callable[[int], None]) -> None:
        self._rows = [_Row() for _ in range(count)]
        self._copy, self._release = copy, release
        self._clock = 0
        self.queries = 0  # prompt tokens that were looked for
        self.hits = 0  # and found

    @property
    def running(self) -> int:
        """Rows with a running sequence."""
        return sum(row.running for row in self._rows)

    @property
    def free(self) -> int:
        """Rows that a new sequence could get."""
        return len(self._rows) - self.running

    @property
    def held_tokens(self) -> int:
        """Tokens in running rows, as they were when each was taken."""
        return sum(len(row.token_T) for row in self._rows if row.running)

    def take(self, scope: Scope, prompt: Sequence[int], *, share: bool = True) -> tuple[int, int]:
        """A row for a new sequence, and how many tokens of its prompt are in it; the last one never is.

        Args:
            share: False reads no cached prefix.
        """
        assert self.free, "the scheduler asks when there is a row"
        token_T = np.asarray(prompt, np.int32)
        source, shared = self._longest(scope, token_T[:-1]) if share else (-1, 0)
        if share:
            self.queries += len(prompt)
            self.hits += shared
        row = self._victim(keep=source)
        if shared and row != source:
            self._copy(source, row, shared)
        self._clock += 1
        self._rows[row] = _Row(scope, token_T[:shared], running=True, used=self._clock)
        return row, shared

    def give_back(self, row: int, tokens: Sequence[int], *, keep: bool = True) -> None:
        """The sequence in a row has ended; `tokens` are those whose keys and values the row holds."""
        found = self._rows[row]
        assert found.running, row
        self._clock += 1
        if keep and len(tokens) >= LEAST_SHARED:
            self._rows[row] = _Row(found.scope, np.asarray(tokens, np.int32), used=self._clock)
        else:
            self._rows[row] = _Row()
            self._release(row)

    def note(self, row: int, tokens: Sequence[int]) -> None:
        """A running row holds these tokens by now: sequences that begin alike can copy them."""
        self._rows[row].token_T = np.asarray(tokens, np.int32)

    def forget(self) -> None:
        """Drop every cached prefix."""
        for number, row in enumerate(self._rows):
            if not row.running and row.scope is not None:
                self._rows[number] = _Row()
                self._release(number)

    def _longest(self, scope: Scope, token_T: np.ndarray) -> tuple[int, int]:
        """The row that begins most like these tokens, and how far."""
        best, longest = -1, LEAST_SHARED - 1
        for number, row in enumerate(self._rows):
            if row.scope != scope or min(len(row.token_T), len(token_T)) <= longest:
                continue
            n = min(len(row.token_T), len(token_T))
            differs = np.flatnonzero(row.token_T[:n] != token_T[:n])
            shared = int(differs[0]) if len(differs) else n
            if shared > longest:
                best, longest = number, shared
        return (best, longest) if best >= 0 else (-1, 0)

    def _victim(self, keep: int) -> int:
        """A row to use: an empty one, or the idle one used longest ago; the source itself only if there is no other."""
        idle = [number for number, row in enumerate(self._rows) if not row.running]
        for number in idle:
            if self._rows[number].scope is None:
                return number
        others = [number for number in idle if number != keep] or idle
        return min(others, key=lambda number: self._rows[number].used)
