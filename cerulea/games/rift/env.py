"""`rift` as a Game: the kernels of this folder behind the protocol that players and trainers use.

Not here: the rules (`rules`), scripted heroes (`bots`), what is learned (`train`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import config, get_num_threads, njit, prange, set_num_threads
from numpy.typing import NDArray

from cerulea.core.errors import Invalid
from cerulea.games.game import (
    ActionArray,
    BoolArray,
    FloatArray,
    Head,
    Observation,
    Pointer,
    Schema,
    SeedArray,
    Tick,
    UnitClass,
)
from cerulea.games.rift import rules as r
from cerulea.games.rift.look import CRITIC_NAMES, FEATURE_NAMES, SELF_NAMES, show
from cerulea.games.rift.sight import look_around
from cerulea.games.rift.tick import decide
from cerulea.games.rift.waves import meet
from cerulea.games.rift.world import CUT, METERS, OVER, WINNER, World, begin, drawn, make_world
from cerulea.games.rift.world import scatter as spread

BOTS = ("pusher", "laner", "team", "team+")
ACTION_NAMES = (
    "hold",
    *(f"move_{way}" for way in ("e", "ne", "n", "nw", "w", "sw", "s", "se")),
    *(f"{verb}_{slot}" for verb in ("attack", "q", "w") for slot in range(r.SLOTS)),
    "recall",
)
SCHEMA = Schema(
    heads=(
        Head(
            name="action",
            actions=ACTION_NAMES,
            pointers=(
                Pointer(name="attack", first=r.ATTACK0, count=r.SLOTS),
                Pointer(name="q", first=r.Q0, count=r.SLOTS),
                Pointer(name="w", first=r.W0, count=r.SLOTS),
            ),
        ),
    ),
    vector=SELF_NAMES,
    unit_features=FEATURE_NAMES,
    unit_classes=(
        UnitClass(name="ally_hero", first=0, count=5, ordered=True),
        UnitClass(name="enemy_hero", first=5, count=5, ordered=True),
        UnitClass(name="enemy_creep", first=10, count=8),
        UnitClass(name="ally_creep", first=18, count=4),
        UnitClass(name="enemy_building", first=22, count=4),
        UnitClass(name="ally_building", first=26, count=4),
        UnitClass(name="boss", first=30, count=2),
    ),
    critic=CRITIC_NAMES,
)


@njit(cache=True, nogil=True)
def _step_one(w, m, action_MPA, reward_MP):
    decide(w, m, action_MPA[m, :, 0], reward_MP[m])


@njit(cache=True, nogil=True)
def _step(w, action_MPA, reward_MP):
    for m in range(w.match.shape[0]):
        _step_one(w, m, action_MPA, reward_MP)


@njit(cache=True, nogil=True, parallel=True)
def _step_threads(w, action_MPA, reward_MP):
    for m in prange(w.match.shape[0]):
        _step_one(w, m, action_MPA, reward_MP)


@njit(cache=True, nogil=True)
def _show_one(w, m, vector, units, critic, mask):
    show(w, m, vector[m], units[m], critic[m], mask[m])


@njit(cache=True, nogil=True)
def _show(w, vector, units, critic, mask):
    for m in range(w.match.shape[0]):
        _show_one(w, m, vector, units, critic, mask)


@njit(cache=True, nogil=True, parallel=True)
def _show_threads(w, vector, units, critic, mask):
    for m in prange(w.match.shape[0]):
        _show_one(w, m, vector, units, critic, mask)


@njit(cache=True, nogil=True)
def _begin_all(w, seed_M, where_M, kinds, lane_mask, mixed, scattered):
    """Begin the marked matches. With `mixed`, each side's heroes are drawn from the seed, no kind twice on a side."""
    n = len(kinds)
    ours, theirs = np.zeros(n, np.int32), np.zeros(n, np.int32)
    left = np.zeros(5, np.int32)
    for m in range(len(seed_M)):
        if not where_M[m]:
            continue
        for side in range(2):
            team = ours if side == 0 else theirs
            for i in range(n):
                team[i] = kinds[i]
            if mixed:
                for k in range(5):
                    left[k] = k
                for i in range(n):
                    k = i + int(drawn(seed_M[m], 7 + i, 2 + side) % np.uint64(5 - i))
                    team[i], left[k] = left[k], left[i]
        begin(w, m, seed_M[m], ours, theirs, lane_mask)
        if drawn(seed_M[m], 1, 31) % np.uint64(1000) < scattered:
            spread(w, m)
            meet(w, m)
        look_around(w, m)


@njit(cache=True, nogil=True)
def _digest(w, m):
    """FNV-1a over everything that decides what follows, word by word."""
    h = np.uint64(0xCBF29CE484222325) ^ w.seed[m]
    prime = np.uint64(0x100000001B3)
    for array in (w.unit[m], w.hero[m], w.hurt[m], w.meter[m]):
        for i in range(array.shape[0]):
            for j in range(array.shape[1]):
                h = (h ^ np.uint64(np.uint32(array[i, j]))) * prime
    for j in range(w.match.shape[1]):
        h = (h ^ np.uint64(np.uint32(w.match[m, j]))) * prime
    for i in range(2):
        for j in range(r.UNITS):
            h = (h ^ np.uint64(w.seen[m, i, j])) * prime
    return h


@njit(cache=True, nogil=True)
def _digests(w, out_M):
    for m in range(len(out_M)):
        out_M[m] = _digest(w, m)


class Rift:
    """Matches of `rift`, all of one preset, stepped together.

    Args:
        preset: `duel` (1 against 1, one lane), `skirmish` (3 against 3, one lane) or `rift` (5 against 5, three lanes).
        matches: how many.
        threads: over which the matches are spread; the result is the same for any number.
        scatter: share of matches that begin with heroes spread over the map, for training.
        draft: `fixed` heroes in their roles, or `mixed`: drawn from the match's seed, for each side by itself.
    """

    training_options = ("scatter",)

    def __init__(
        self, preset: str, matches: int, *, threads: int = 1, draft: str = "fixed", scatter: float = 0.0
    ) -> None:
        if preset not in r.PRESETS:
            raise Invalid(f"rift has no preset {preset!r}.", fix=f"Use one of {', '.join(r.PRESETS)}.")
        if draft not in ("fixed", "mixed"):
            raise Invalid(f"rift has no draft {draft!r}.", fix="Use fixed or mixed.")
        if not 1 <= threads <= config.NUMBA_NUM_THREADS:
            most = config.NUMBA_NUM_THREADS
            raise Invalid(
                f"rift cannot be stepped by {threads} threads.", fix=f"Use 1 to {most}, as NUMBA_NUM_THREADS says."
            )
        if not isinstance(scatter, int | float) or not 0 <= scatter <= 1:
            raise Invalid(f"rift has no scatter {scatter!r:.40}.", fix="Use a share from 0 to 1.")
        kinds, lanes = r.PRESETS[preset]
        self.name = "rift" if preset == "rift" else f"rift-{preset}"
        self.version = r.VERSION
        self.options: dict[str, Any] = {} if draft == "fixed" else {"draft": draft}
        if scatter:
            self.options["scatter"] = scatter
        self.scattered = int(1000 * scatter)
        self.schema = SCHEMA
        self.matches, self.threads = matches, threads
        self.players = 2 * len(kinds)
        self.teams: tuple[int, ...] = (0,) * len(kinds) + (1,) * len(kinds)
        self.bots: tuple[str, ...] = BOTS
        self.meters: tuple[str, ...] = METERS
        self.step_s, self.limit = r.STEP_S, r.LIMIT
        self.kinds = np.array(kinds, np.int32)
        self.lane_mask = sum(1 << lane for lane in lanes)
        self.mixed = draft == "mixed"
        self.world: World = make_world(matches)
        self.heroes = np.array([*range(len(kinds)), *range(5, 5 + len(kinds))])  # places of the players' heroes
        self.reset(np.zeros(matches, np.uint64))

    def reset(self, seed_M: SeedArray, where_M: BoolArray | None = None) -> None:
        """Begin matches anew, all of them or those marked, each from its own seed."""
        where = np.ones(self.matches, np.bool_) if where_M is None else where_M
        _begin_all(self.world, seed_M, where, self.kinds, self.lane_mask, self.mixed, self.scattered)

    def observe(self, out: Observation) -> None:
        """Write what every player sees now."""
        run = _show if self.threads == 1 else _show_threads
        self._with_threads(run, out.vector_MPF, out.units_MPUF, out.critic_MPF, out.mask_MPN)
        out.acting_MP[:] = self.world.match[:, OVER, None] == 0

    def step(self, action_MPA: ActionArray, out: Tick) -> None:
        """Let every hero act once: two ticks of 0.2 s."""
        before_M = self.world.match[:, OVER] != 0
        self._with_threads(_step if self.threads == 1 else _step_threads, action_MPA, out.reward_MP)
        match = self.world.match
        over_M, cut_M = match[:, OVER] != 0, match[:, CUT] != 0
        new_M = over_M & ~before_M
        out.terminated_MP[:] = (new_M & ~cut_M)[:, None]
        out.truncated_MP[:] = (new_M & cut_M)[:, None]
        out.ended_M[:] = over_M
        out.winner_M[:] = np.where(over_M, match[:, WINNER], -1)

    def _with_threads(self, kernel: Any, *arrays: Any) -> None:
        if self.threads == 1:
            kernel(self.world, *arrays)
            return
        before = get_num_threads()
        set_num_threads(self.threads)
        try:
            kernel(self.world, *arrays)
        finally:
            set_num_threads(before)

    def script(self, bot_MP: NDArray[np.int8], out: ActionArray) -> None:
        """Write what scripted players do."""
        from cerulea.games.rift.bots import script_all

        script_all(self.world, bot_MP, out)

    def read_meters(self, out_MPF: FloatArray) -> None:
        """Write each player's counters, in the order of `meters`."""
        out_MPF[:] = self.world.meter[:, self.heroes]

    def state(self) -> dict[str, NDArray[Any]]:
        """A copy of everything that decides what follows."""
        return {
            name: array.copy() for name, array in self.world._asdict().items() if name not in ("pay", "work", "face")
        }

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Go on from what `state` gave."""
        for name, array in state.items():
            getattr(self.world, name)[:] = array

    def digests(self) -> NDArray[np.uint64]:
        """A hash of each match's state."""
        out_M = np.zeros(self.matches, np.uint64)
        _digests(self.world, out_M)
        return out_M

    def frame(self, match: int) -> dict[str, Any]:
        """What a person watching sees of one match."""
        from cerulea.games.rift.frame import frame_of

        return frame_of(self.world, match)
