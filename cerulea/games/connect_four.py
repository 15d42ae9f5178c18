"""Connect Four: two players in turn, seven columns of six, four in a row win.

A player sees its own stones and the other's. Matches are stepped together in NumPy; the rules are those of PettingZoo's
`connect_four_v3`, which the tests play beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cerulea.core.seeds import mixed
from cerulea.games.game import ActionArray, BoolArray, FloatArray, Head, Observation, Schema, SeedArray, Tick

ROWS, COLUMNS = 6, 7
SCHEMA = Schema(
    heads=(Head(name="column", actions=tuple(f"column_{c}" for c in range(COLUMNS))),),
    vector=(
        *(f"mine_{row}_{column}" for row in range(ROWS) for column in range(COLUMNS)),
        *(f"theirs_{row}_{column}" for row in range(ROWS) for column in range(COLUMNS)),
    ),
)


def _lines() -> NDArray[np.int64]:
    """All 69 lines of four places, as (69, 4) places of the board."""
    found = []
    for row in range(ROWS):
        for column in range(COLUMNS):
            for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
                line = [(row + k * down, column + k * right) for k in range(4)]
                if all(0 <= r < ROWS and 0 <= c < COLUMNS for r, c in line):
                    found.append([r * COLUMNS + c for r, c in line])
    return np.array(found)


LINES = _lines()


def _completing(board: NDArray[np.int8], who: NDArray[Any]) -> NDArray[np.bool_]:
    """Columns (K, 7) in which a stone of `who` (K,) makes four, on boards (K, 42)."""
    lines = board[:, LINES]
    three = ((lines == who[:, None, None]).sum(2) == 3) & ((lines == 0).sum(2) == 1)
    last = (LINES * (lines == 0)).sum(2)  # of a line with one free place: that place
    wins = np.zeros((len(board), ROWS * COLUMNS), np.bool_)
    boards, found = np.nonzero(three)
    wins[boards, last[boards, found]] = True
    filled = (board.reshape(-1, ROWS, COLUMNS) != 0).sum(1)
    landing = np.maximum(ROWS - 1 - filled, 0) * COLUMNS + np.arange(COLUMNS)
    return np.asarray(np.take_along_axis(wins, landing, 1) & (filled < ROWS))


class ConnectFour:
    """Matches of Connect Four. A win pays 1, a loss -1; row 0 is the top one."""

    name, version = "connect-four", "1"
    schema = SCHEMA
    players = 2
    teams: tuple[int, ...] = (0, 1)
    bots: tuple[str, ...] = ("taker",)  # takes a win, else blocks one, else draws a column
    meters: tuple[str, ...] = ()
    step_s, limit = 0.0, 0

    def __init__(self, matches: int) -> None:
        self.matches = matches
        self.options: dict[str, Any] = {}
        self.board = np.zeros((matches, ROWS * COLUMNS), np.int8)  # 0 free, 1 and 2 the players
        self.count = np.zeros(matches, np.int32)
        self.over = np.zeros(matches, np.bool_)
        self.winner = np.full(matches, -1, np.int8)
        self.seed = np.zeros(matches, np.uint64)

    def reset(self, seed_M: SeedArray, where_M: BoolArray | None = None) -> None:
        """An empty board; the seed decides nothing but what scripted players draw."""
        where = np.ones(self.matches, np.bool_) if where_M is None else where_M
        self.board[where], self.count[where], self.over[where], self.winner[where] = 0, 0, False, -1
        self.seed[where] = seed_M[where]

    def observe(self, out: Observation) -> None:
        """Own stones, the other's, and free columns; only who is to move acts."""
        free = self.board[:, :COLUMNS] == 0
        for p in range(2):
            out.vector_MPF[:, p, : ROWS * COLUMNS] = self.board == p + 1
            out.vector_MPF[:, p, ROWS * COLUMNS :] = self.board == 2 - p
            out.mask_MPN[:, p] = free | self.over[:, None]
            out.acting_MP[:, p] = ~self.over & (self.count % 2 == p)

    def step(self, action_MPA: ActionArray, out: Tick) -> None:
        """Drop the stone of whoever is to move."""
        out.reward_MP[:] = 0.0
        m = np.arange(self.matches)
        mover = self.count % 2
        column = action_MPA[m, mover, 0]
        tall = self.board.reshape(-1, ROWS, COLUMNS)
        filled = (tall[m, :, column] != 0).sum(1)
        row = np.maximum(ROWS - 1 - filled, 0)
        place = row * COLUMNS + column
        self.board[m, place] = np.where(self.over, self.board[m, place], mover + 1)
        playing = ~self.over
        self.count += playing
        won = playing & (self.board[:, LINES] == (mover + 1)[:, None, None]).all(2).any(1)
        full = playing & ~won & (self.count == ROWS * COLUMNS)
        self.winner[won] = mover[won]
        self.over |= won | full
        out.reward_MP[won, mover[won]] = 1.0
        out.reward_MP[won, 1 - mover[won]] = -1.0
        out.terminated_MP[:] = (won | full)[:, None]
        out.truncated_MP[:] = False
        out.ended_M[:] = self.over
        out.winner_M[:] = self.winner

    def script(self, bot_MP: NDArray[np.int8], out: ActionArray) -> None:
        """`taker`: a column that wins, else one that keeps the other from winning, else any free one."""
        m = np.arange(self.matches)
        mover = self.count % 2
        where = np.flatnonzero((bot_MP[m, mover] >= 0) & ~self.over)
        if not len(where):
            return
        board, me = self.board[where], mover[where] + 1
        wins, saves = _completing(board, me), _completing(board, 3 - me)
        for k, match in enumerate(where):
            if wins[k].any():
                column = int(wins[k].argmax())
            elif saves[k].any():
                column = int(saves[k].argmax())
            else:
                free = np.flatnonzero(board[k, :COLUMNS] == 0)
                column = int(free[mixed(int(self.seed[match]), int(self.count[match]), 9) % len(free)])
            out[match, mover[match], 0] = column

    def read_meters(self, out_MPF: FloatArray) -> None:
        """There are none."""

    def state(self) -> dict[str, NDArray[Any]]:
        """Boards, and what goes with them."""
        names = ("board", "count", "over", "winner", "seed")
        return {name: getattr(self, name).copy() for name in names}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from what `state` gave."""
        for name, array in state.items():
            getattr(self, name)[:] = array

    def digests(self) -> NDArray[np.uint64]:
        """A hash of each board."""
        return np.array(
            [
                mixed(int.from_bytes(board.tobytes(), "little") % (2**61 - 1), int(over), int(winner), int(seed))
                for board, over, winner, seed in zip(self.board, self.over, self.winner, self.seed, strict=True)
            ],
            np.uint64,
        )

    def frame(self, match: int) -> dict[str, Any]:
        """The board, row by row from the top: 0 free, 1 and 2 the players."""
        return {
            "board": self.board[match].reshape(ROWS, COLUMNS).tolist(),
            "to_move": int(self.count[match] % 2),
            "over": bool(self.over[match]),
            "winner": int(self.winner[match]),
        }
