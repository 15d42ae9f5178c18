"""`rift` skirmish against the bot `laner` as a batch of single agents, the form that other trainers learn in.

Every learning hero is one agent; half of the matches are played from each side. The reward is the one that our trainer
learns from: the game's own, mixed with the team's mean by TEAM_SPIRIT, less the mean of the enemies. Needs numpy and
numba alone, so that it runs in an environment of a peer's own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cerulea.core.seeds import mixed
from cerulea.games.game import observation_buffers, tick_buffers
from cerulea.games.rift.env import Rift

TEAM_SPIRIT = 0.5
OPPONENT = "laner"


class Agents:
    """M matches of 3 against 3; 3 M agents, of matches in order."""

    def __init__(self, matches: int, *, preset: str = "skirmish", seed: int = 1, restart: bool = True) -> None:
        self.game = Rift(preset, matches)
        self.seed, self.begun, self.restart = seed, 0, restart
        self.matches, self.players = matches, self.game.players
        self.heroes = self.players // 2
        self.seen = observation_buffers(self.game.schema, matches, self.players)
        self.tick = tick_buffers(matches, self.players)
        side_M = np.arange(matches) % 2  # the side that learns
        team_P = np.array(self.game.teams)
        self.ours_MP = team_P[None, :] == side_M[:, None]
        self.side_M = side_M
        self.bot_MP = np.where(self.ours_MP, -1, self.game.bots.index(OPPONENT)).astype(np.int8)
        self.action_MPA = np.zeros((matches, self.players, 1), np.int32)
        self.size = matches * self.heroes
        self.features = self.seen.vector_MPF.shape[2] + self.seen.units_MPUF[0, 0].size
        self.game.reset(self._seeds())
        self.game.observe(self.seen)

    def _seeds(self) -> NDArray[np.uint64]:
        seeds = [mixed(self.seed, self.begun + m) for m in range(self.matches)]
        self.begun += self.matches
        return np.array(seeds, np.uint64)

    def look(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Flat observations (agents, features) and masks (agents, actions)."""
        vector = self.seen.vector_MPF[self.ours_MP]
        units = self.seen.units_MPUF[self.ours_MP].reshape(len(vector), -1)
        return np.concatenate([vector, units], axis=1), self.seen.mask_MPN[self.ours_MP]

    def step(self, actions: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Act; matches that end begin anew. Reward, terminated and truncated of every agent."""
        self.game.script(self.bot_MP, self.action_MPA)
        self.action_MPA[self.ours_MP] = actions.reshape(-1, 1)
        self.game.step(self.action_MPA, self.tick)
        reward = self.tick.reward_MP
        mean_us = np.where(self.ours_MP, reward, 0).sum(1, keepdims=True) / self.heroes
        mean_them = np.where(self.ours_MP, 0, reward).sum(1, keepdims=True) / self.heroes
        mixed_MP = (1 - TEAM_SPIRIT) * reward + TEAM_SPIRIT * mean_us - mean_them
        terminated, truncated = self.tick.terminated_MP[self.ours_MP], self.tick.truncated_MP[self.ours_MP]
        self.final = None
        if self.tick.ended_M.any() and self.restart:
            self.game.observe(self.seen)
            self.final = self.look()[0].copy()
            self.game.reset(self._seeds(), self.tick.ended_M.copy())
        self.game.observe(self.seen)
        return mixed_MP[self.ours_MP].astype(np.float32), terminated, truncated


def share_won(act, *, matches: int = 100, seed: int = 10_000) -> float:
    """Share of matches against the bot won before the time is up; `act` maps (observations, masks) to actions."""
    agents = Agents(matches, seed=seed, restart=False)
    won_M, over_M = np.zeros(matches, bool), np.zeros(matches, bool)
    while not over_M.all():
        agents.step(act(*agents.look()))
        new_M = agents.tick.ended_M & ~over_M
        cut_M = agents.tick.truncated_MP.any(1)
        won_M |= new_M & ~cut_M & (agents.tick.winner_M == agents.side_M)
        over_M |= agents.tick.ended_M
    return float(won_M.mean())
