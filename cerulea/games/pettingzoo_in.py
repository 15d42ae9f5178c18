"""PettingZoo's environments as a Game: parallel ones, and those in which players take turns (AEC).

In:      a module (`classic.tictactoe_v3` of pettingzoo, or any module with `parallel_env` or `env`), what it is made
         with, and of our own: `teams`, a team for each player; `bins`, into how many values a number of an action is
         cut.
Kept:    masks by PettingZoo's convention, `action_mask` in the observation or in `infos`. A player that is not to
         move, or is dead, does not act; what it is paid meanwhile belongs to its last decision. The winner is the team
         that was paid most in all, for PettingZoo knows none.
Not here: spaces (`spaces`), modules by name (`pettingzoo_names`), our games for PettingZoo (`views`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cerulea.core.errors import GameBroken, GameInvalid
from cerulea.games.game import ActionArray, BoolArray, FloatArray, Observation, Schema, SeedArray, Tick
from cerulea.games.gymnasium_in import SEEDS
from cerulea.games.history import History, State
from cerulea.games.pettingzoo_names import find_maker
from cerulea.games.spaces import BINS, check_legal, check_seen, choices, read_mask, reader, without_mask


class PettingZooGame:
    """Copies of one environment of several players, stepped one after the other.

    All players must see and do the same kinds of things; `teams` tells which of them share their fate.
    """

    bots: tuple[str, ...] = ()
    meters: tuple[str, ...] = ()
    step_s, limit = 0.0, 0

    def __init__(
        self, module: str, matches: int, *, teams: list[int] | None = None, bins: int = BINS, **options: Any
    ) -> None:
        self.name = f"pettingzoo:{module}"
        maker = find_maker(module)
        self.parallel, self.version = maker.parallel, maker.version
        self.options = {
            **options,
            **({"teams": list(teams)} if teams else {}),
            **({"bins": bins} if bins != BINS else {}),
        }
        try:
            self.environments = [maker.make(**options) for _ in range(matches)]
        except Exception as error:  # the code of others: whatever it raises, the user named it
            raise GameInvalid(
                f"{module} cannot be made: {error}", fix="Install what it needs, or correct game.options."
            ) from error
        first = self.environments[0]
        self.agents = list(getattr(first, "possible_agents", ()))
        self.players = len(self.agents)
        if not self.agents:
            raise GameInvalid(
                f"{module} does not say who may play.", fix="Give it possible_agents, all that ever play, in order."
            )
        self.teams = _teams(teams, self.agents)
        seen, done = self._spaces(first, bins)
        heads = done[0][0]
        self.read, self.action_of = [each.read for each in seen], [act for _, act in done]
        self.schema = Schema(heads=heads, vector=seen[0].names)
        m, p = matches, self.players
        self.matches = matches
        self.seen = np.zeros((m, p, len(self.schema.vector)), np.float32)
        self.mask = np.ones((m, p, self.schema.actions), np.bool_)
        self.acting = np.zeros((m, p), np.bool_)
        self.dead = np.zeros((m, p), np.bool_)
        self.total = np.zeros((m, p))
        self.over = np.ones(m, np.bool_)
        self.history = History(self.name, m, p, len(heads))

    def _spaces(self, env: Any, bins: int) -> tuple[list[Any], list[Any]]:
        """Each player's reader, and its heads with what makes an action of them."""
        shown = [without_mask(env.observation_space(agent)) for agent in self.agents]
        self.masked = [masked for _, masked in shown]
        # PettingZoo's own name for what is beside a mask says nothing.
        self.inner = [list(s.spaces) == ["observation"] if m else False for s, m in shown]
        seen = [reader(s["observation"] if inner else s) for (s, _), inner in zip(shown, self.inner, strict=True)]
        done = [choices(env.action_space(agent), bins) for agent in self.agents]
        if any(each.names != seen[0].names for each in seen) or any(heads != done[0][0] for heads, _ in done):
            raise GameInvalid(
                f"Players of {self.name} see or do different things.",
                why="All players share one policy.",
                fix="Wrap the environment with padding, such as SuperSuit's pad_observations and pad_action_space.",
            )
        return seen, done

    # -- one match ---------------------------------------------------------------------------------

    def _see(self, m: int, p: int, observation: Any, info: dict[str, Any] | None) -> None:
        mask = observation["action_mask"] if self.masked[p] else (info or {}).get("action_mask")
        self.seen[m, p] = self.read[p](observation["observation"] if self.inner[p] else observation)
        check_seen(self.name, self.seen[m, p])
        if mask is not None:
            self.mask[m, p] = read_mask(self.name, mask, self.schema.heads)

    def _settle(self, m: int) -> None:
        """Masks of those who act are checked; others may have nothing that is legal, and everything stands for it."""
        for p in range(self.players):
            if self.acting[m, p]:
                check_legal(self.name, self.mask[m, p], self.schema.heads)
            else:
                self.mask[m, p] = True

    def _look(self, m: int) -> None:
        """AEC: bring up to date what everybody sees, and whose turn it is."""
        env = self.environments[m]
        self.acting[m] = False
        for p, agent in enumerate(self.agents):
            if agent in env.agents:
                self._see(m, p, env.observe(agent), env.infos.get(agent))
        # Those who died take no more turns; PettingZoo wants a step of None from each.
        while env.agents and (env.terminations[env.agent_selection] or env.truncations[env.agent_selection]):
            env.step(None)
        if env.agents:
            self.acting[m, self.agents.index(env.agent_selection)] = True

    def _begin(self, m: int, seed: int) -> None:
        env = self.environments[m]
        given = env.reset(seed=seed % SEEDS)
        self.over[m], self.dead[m], self.total[m] = False, False, 0.0
        self.seen[m], self.mask[m], self.acting[m] = 0.0, True, False
        if self.parallel:
            observations, infos = given
            for p, agent in enumerate(self.agents):
                if agent in env.agents:
                    self._see(m, p, observations[agent], infos.get(agent))
                    self.acting[m, p] = True
        else:
            self._look(m)
        self._settle(m)
        self.history.begin(m, seed, self.seen[m], self.mask[m], self.acting[m])

    def _step(self, m: int, action: NDArray[np.int32]) -> tuple[FloatArray, BoolArray, BoolArray]:
        """Reward, terminated and truncated of each player."""
        env = self.environments[m]
        action = np.where(self.acting[m, :, None], action, 0).astype(np.int32)  # what others sent counts for nothing
        paid = np.zeros(self.players)
        terminated, truncated = np.zeros(self.players, np.bool_), np.zeros(self.players, np.bool_)
        if self.parallel:
            chosen = {a: self.action_of[p](action[p]) for p, a in enumerate(self.agents) if a in env.agents}
            observations, rewards, terminations, truncations, infos = env.step(chosen)
            for p, agent in enumerate(self.agents):
                if agent in observations:
                    self._see(m, p, observations[agent], infos.get(agent))
                self.acting[m, p] = agent in env.agents
        else:
            p = self.agents.index(env.agent_selection)
            env.step(self.action_of[p](action[p]))
            rewards, terminations, truncations = dict(env.rewards), dict(env.terminations), dict(env.truncations)
            self._look(m)
        for p, agent in enumerate(self.agents):
            if not self.dead[m, p]:
                paid[p] = rewards.get(agent, 0.0)
                terminated[p] = bool(terminations.get(agent, False))
                truncated[p] = bool(truncations.get(agent, False)) and not terminated[p]
        check_seen(self.name, self.seen[m, 0], float(paid.sum()))
        if (terminated | truncated | self.dead[m]).all() or not env.agents:
            self.over[m] = True
            # Who is still counted alive when nobody is left ended with the match.
            terminated |= ~(self.dead[m] | terminated | truncated)
        self.dead[m] |= terminated | truncated
        self.acting[m] &= ~self.dead[m]
        if not self.over[m] and not self.acting[m].any():
            raise GameBroken(
                f"{self.name} goes on with nobody to act.",
                why="A match that has not ended waits for somebody.",
                fix="End the match, or keep a player that is alive in `agents`.",
            )
        self.total[m] += paid
        self._settle(m)
        self.history.add(m, action, self.seen[m], self.mask[m], self.acting[m], paid, terminated, truncated)
        return paid.astype(np.float32), terminated, truncated

    # -- the protocol ------------------------------------------------------------------------------

    def reset(self, seed_M: SeedArray, where_M: BoolArray | None = None) -> None:
        """Begin matches anew, each from its own seed."""
        for m in range(self.matches):
            if where_M is None or where_M[m]:
                self._begin(m, int(seed_M[m]))

    def observe(self, out: Observation) -> None:
        """What each player saw last, and who is to act."""
        out.vector_MPF[:], out.mask_MPN[:], out.acting_MP[:] = self.seen, self.mask, self.acting

    def step(self, action_MPA: ActionArray, out: Tick) -> None:
        """Step every environment that has not ended; in turns, one player's turn each."""
        out.reward_MP[:], out.terminated_MP[:], out.truncated_MP[:] = 0.0, False, False
        for m in np.flatnonzero(~self.over):
            out.reward_MP[m], out.terminated_MP[m], out.truncated_MP[m] = self._step(int(m), action_MPA[m])
        out.ended_M[:] = self.over
        out.winner_M[:] = [self._winner(m) if self.over[m] else -1 for m in range(self.matches)]

    def _winner(self, m: int) -> int:
        by_team = np.bincount(self.teams, self.total[m])
        best = np.flatnonzero(by_team == by_team.max())
        return int(best[0]) if len(best) == 1 and len(by_team) > 1 else -1

    def script(self, bot_MP: NDArray[np.int8], out: ActionArray) -> None:
        """There are no scripted players."""

    def read_meters(self, out_MPF: FloatArray) -> None:
        """There are none."""

    def state(self) -> State:
        """Seeds and actions of the matches in flight."""
        return self.history.state()

    def restore(self, state: State) -> None:
        """Do again what was done."""
        self.history.walk(state, self._begin, self._step)

    def digests(self) -> NDArray[np.uint64]:
        """A hash of what was done and shown in each match."""
        return self.history.digests()

    def frame(self, match: int) -> dict[str, Any]:
        """What each player sees and was paid."""
        return {
            "players": {
                agent: {"seen": self.seen[match, p].tolist(), "paid": float(self.total[match, p])}
                for p, agent in enumerate(self.agents)
            },
            "to_move": [agent for p, agent in enumerate(self.agents) if self.acting[match, p]],
            "over": bool(self.over[match]),
        }


def _teams(teams: list[int] | None, agents: list[str]) -> tuple[int, ...]:
    """Each player's team; everybody is one by itself where nothing is said."""
    if not teams:
        return tuple(range(len(agents)))
    if len(teams) != len(agents) or set(teams) != set(range(max(teams) + 1)):
        raise GameInvalid(
            f"game.options.teams is {teams} for {len(agents)} players.",
            why="Teams are counted from 0, one for each player.",
            fix=f"Name a team for each of {', '.join(agents)}.",
        )
    return tuple(teams)
