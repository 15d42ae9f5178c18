"""PettingZoo's environments as a Game: parallel ones, and those in which players take turns (AEC).

In:      a module (`classic.tictactoe_v3` of pettingzoo, or any module with `parallel_env` or `env`).
Kept:    masks by PettingZoo's convention, `action_mask` in the observation or in `infos`. A player that is not to
         move, or is dead, does not act; what it is paid meanwhile belongs to its last decision.
Not here: spaces (`spaces`), the way out: our games for PettingZoo (`views`).
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cerulea.core.errors import GameInvalid, NotFound
from cerulea.games.game import ActionArray, BoolArray, FloatArray, Observation, Schema, SeedArray, Tick
from cerulea.games.gymnasium_in import SEED_BITS
from cerulea.games.history import History, check_same
from cerulea.games.spaces import choices, flat_names, flatten


def _module(name: str) -> Any:
    for full in (f"pettingzoo.{name}", name):
        try:
            return importlib.import_module(full)
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if not (full == missing or full.startswith(f"{missing}.")):
                raise GameInvalid(f"{name} needs the package {missing}.", fix=f"pip install {missing}") from error
    raise NotFound(
        f"There is no environment {name!r}.",
        fix="Name a module of PettingZoo, such as pettingzoo:classic.tictactoe_v3, or one of your own.",
    )


class PettingZooGame:
    """Copies of one environment of several players.

    All players must see and do the same kinds of things; `teams` tells which of them share their fate.
    """

    bots: tuple[str, ...] = ()
    meters: tuple[str, ...] = ()
    step_s, limit = 0.0, 0

    def __init__(self, module: str, matches: int, *, teams: list[int] | None = None, **options: Any) -> None:
        source = _module(module)
        self.parallel = hasattr(source, "parallel_env")
        make = source.parallel_env if self.parallel else getattr(source, "env", None)
        if make is None:
            raise GameInvalid(f"{module} has neither parallel_env nor env.", fix="Name an environment's module.")
        self.environments = [make(**options) for _ in range(matches)]
        first = self.environments[0]
        self.agents = list(first.possible_agents)
        self.players = len(self.agents)
        self.teams = tuple(teams) if teams else tuple(range(self.players))
        if len(self.teams) != self.players:
            raise GameInvalid(
                f"game.options.teams has {len(self.teams)} entries for {self.players} players.",
                fix=f"Name a team for each of {', '.join(self.agents)}.",
            )
        self.name = f"pettingzoo:{module}"
        self.version = f"{module} pettingzoo {importlib.import_module('pettingzoo').__version__}"
        self.options = {**options, **({"teams": list(self.teams)} if teams else {})}
        seen = [first.observation_space(agent) for agent in self.agents]
        done = [first.action_space(agent) for agent in self.agents]
        if any(flat_names(s) != flat_names(seen[0]) for s in seen) or any(
            choices(d)[0] != choices(done[0])[0] for d in done
        ):
            raise GameInvalid(
                f"Players of {module} see or do different things.",
                why="All players share one policy.",
                fix="Wrap the environment with padding, such as SuperSuit's pad_observations and pad_action_space.",
            )
        self.masked = "action_mask" in getattr(seen[0], "spaces", {})
        self.space = seen[0]["observation"] if self.masked else seen[0]
        heads, _ = choices(done[0])
        self.action_of = [choices(space)[1] for space in done]
        self.schema = Schema(heads=heads, vector=flat_names(self.space))
        self.matches = matches
        m, p = matches, self.players
        self.seen = np.zeros((m, p, len(self.schema.vector)), np.float32)
        self.mask = np.ones((m, p, self.schema.actions), np.bool_)
        self.acting = np.zeros((m, p), np.bool_)
        self.dead = np.zeros((m, p), np.bool_)
        self.total = np.zeros((m, p))
        self.over = np.ones(m, np.bool_)
        self.history = History(m, p, len(heads))

    # -- one match ---------------------------------------------------------------------------------

    def _see(self, m: int, p: int, observation: Any, info: dict[str, Any]) -> None:
        mask = (info or {}).get("action_mask")
        if self.masked:
            mask, observation = observation["action_mask"], observation["observation"]
        self.seen[m, p] = flatten(self.space, observation)
        if mask is not None:
            legal = np.asarray(mask, np.bool_).ravel()
            # Who is not to move may have nothing that is legal; a mask without any action would be no mask.
            self.mask[m, p] = legal if legal.any() else True

    def _look(self, m: int) -> None:
        """AEC: bring up to date what everybody sees, and whose turn it is."""
        env = self.environments[m]
        self.acting[m] = False
        for p, agent in enumerate(self.agents):
            if agent in env.agents:
                self._see(m, p, env.observe(agent), env.infos.get(agent, {}))
        self._bury(m)
        if env.agents:
            self.acting[m, self.agents.index(env.agent_selection)] = True

    def _bury(self, m: int) -> None:
        """AEC: those who died take no more turns; PettingZoo wants a step of None from each."""
        env = self.environments[m]
        while env.agents and (env.terminations[env.agent_selection] or env.truncations[env.agent_selection]):
            env.step(None)

    def _begin(self, m: int, seed: int) -> None:
        self.history.begin(m, seed)
        env = self.environments[m]
        given = env.reset(seed=seed % SEED_BITS)
        self.over[m], self.dead[m], self.total[m] = False, False, 0.0
        self.mask[m] = True
        if self.parallel:
            observations, infos = given
            self.acting[m] = False
            for p, agent in enumerate(self.agents):
                if agent in env.agents:
                    self._see(m, p, observations[agent], infos.get(agent, {}))
                    self.acting[m, p] = True
            return
        self._look(m)

    def _step(
        self, m: int, action: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Reward, terminated and truncated of each player."""
        self.history.add(m, action)
        env = self.environments[m]
        reward = np.zeros(self.players, np.float32)
        terminated, truncated = np.zeros(self.players, np.bool_), np.zeros(self.players, np.bool_)
        if self.parallel:
            chosen = {a: self.action_of[p](action[p]) for p, a in enumerate(self.agents) if a in env.agents}
            observations, rewards, terminations, truncations, infos = env.step(chosen)
            for p, agent in enumerate(self.agents):
                if agent in rewards:
                    reward[p] = rewards[agent]
                    terminated[p] = bool(terminations.get(agent, False))
                    truncated[p] = bool(truncations.get(agent, False)) and not terminated[p]
                if agent in observations:
                    self._see(m, p, observations[agent], infos.get(agent, {}))
                self.acting[m, p] = agent in env.agents
        else:
            p = self.agents.index(env.agent_selection)
            env.step(self.action_of[p](action[p]))
            for q, agent in enumerate(self.agents):
                if agent in env.rewards and not self.dead[m, q]:
                    reward[q] = env.rewards[agent]
                    terminated[q] = bool(env.terminations[agent])
                    truncated[q] = bool(env.truncations[agent]) and not terminated[q]
            self._look(m)
        terminated &= ~self.dead[m]
        truncated &= ~self.dead[m]
        self.dead[m] |= terminated | truncated
        self.total[m] += reward
        self.over[m] = not env.agents
        if self.over[m]:
            # Who is still counted alive when nobody is left ended with the match.
            terminated |= ~self.dead[m]
            self.acting[m] = False
        return reward, terminated, truncated

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
        out.winner_M[:] = -1
        for m in np.flatnonzero(self.over):
            # PettingZoo knows no winners: the team that was paid most in all.
            by_team = [self.total[m][np.array(self.teams) == team].sum() for team in range(max(self.teams) + 1)]
            best = int(np.argmax(by_team))
            if len(by_team) > 1 and sum(score == by_team[best] for score in by_team) == 1:
                out.winner_M[m] = best

    def script(self, bot_MP: NDArray[np.int8], out: ActionArray) -> None:
        """There are no scripted players."""

    def read_meters(self, out_MPF: FloatArray) -> None:
        """There are none."""

    def state(self) -> dict[str, NDArray[Any]]:
        """Seeds and actions of the matches in flight, and what was seen last."""
        return {**self.history.state(), "seen": self.seen.copy()}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Do again what was done."""
        self.history.walk(state, self._begin, lambda m, action: self._step(m, action) and None)
        check_same(self.name, state["seen"], self.seen)

    def digests(self) -> NDArray[np.uint64]:
        """A hash of each match's seed and actions."""
        return self.history.digests()

    def frame(self, match: int) -> dict[str, Any]:
        """What each player sees and was paid."""
        return {
            "players": {
                agent: {"seen": self.seen[match, p].tolist(), "paid": float(self.total[match, p])}
                for p, agent in enumerate(self.agents)
            },
            "over": bool(self.over[match]),
        }
