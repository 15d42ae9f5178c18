"""A game that breaks a rule is told which."""

from __future__ import annotations

import numpy as np
import pytest

from cerulea.core.errors import GameBroken
from cerulea.games.catalog import make_game
from cerulea.games.conformance import check_game
from cerulea.games.connect_four import ConnectFour

STILL = "a match that has ended stands still"
EXACT = "a restored game goes on to the bit"
FAULTS = {
    "looks twice": "observing changes nothing",
    "draws from elsewhere": "seed and actions decide all",
    "counts its copies": "seed and actions decide all",
    "looks at its neighbour": "a match does not depend on those beside it",
    "listens to who does not act": "seed and actions decide all",
    "leaves masks unwritten": "seed and actions decide all",
    "adds to rewards": "seed and actions decide all",
    "no legal action": "every player has a legal action in every head",
    "not finite": "what is shown is finite",
    "pays nan": "rewards are finite",
    "nobody acts": "somebody acts in a match that goes on",
    "goes on": STILL,
    "pays on": "a match that has ended pays nothing",
    "ends for one": "when a match ends, each player has ended",
    "ends in both ways": "a player ends in one way",
    "wins early": "nobody has won while a match goes on",
    "team seven wins": "a winner is a team",
    "changes actions": "a game writes only into the buffers it was given",
    "changes seeds": "a game writes only into the buffers it was given",
    "keeps no state": EXACT,
    "forgets the end": EXACT,
    "lends its state": "a state is a copy",
    "frames of arrays": "a frame is plain values",
    "forbidden bot": "scripted players do what is legal",
    "fickle bot": "seed and actions decide all",
    "late": "a match has at most 3 steps",
    "teams from one": "teams are counted from 0",
    "odd options": "options are plain values",
    "two of a name": "names are unique",
}


class Faulty(ConnectFour):
    fault = ""
    made = 0

    def __init__(self, matches):
        super().__init__(matches)
        self.draw = np.random.default_rng()
        Faulty.made += 1
        self.number = Faulty.made
        if self.fault == "late":
            self.limit = 3
        if self.fault == "teams from one":
            self.teams = (1, 2)
        if self.fault == "odd options":
            self.options = {"kind": np.int32}
        if self.fault == "two of a name":
            self.schema = type(self.schema)(heads=self.schema.heads, vector=("a",) * 84)

    def reset(self, seed_M, where_M=None):
        super().reset(seed_M, where_M)
        if self.fault == "changes seeds":
            seed_M[:] = 0

    def observe(self, out):
        mask = out.mask_MPN.copy()
        super().observe(out)
        match self.fault:
            case "looks twice":
                self.count += 1
                out.vector_MPF[:, :, 0] = self.count[:, None]
            case "counts its copies":
                out.vector_MPF[:] = self.number
            case "looks at its neighbour":
                out.vector_MPF[0, 0, 0] = self.board[-1].sum()
            case "leaves masks unwritten":
                out.mask_MPN[:, :, 1:] = mask[:, :, 1:]
            case "no legal action":
                out.mask_MPN[:, 1] = False
            case "not finite":
                out.vector_MPF[0, 0, 0] = np.nan
            case "nobody acts":
                out.acting_MP[self.count == 2] = False

    def step(self, action_MPA, out):
        before, paid, count = self.over.copy(), out.reward_MP.copy(), self.count.copy()
        if self.fault == "changes actions":
            action_MPA[:] = 0
        super().step(action_MPA, out)
        match self.fault:
            case "draws from elsewhere":
                self.board[:, 3] = self.draw.integers(3, size=self.matches)
            case "listens to who does not act":
                self.seed += action_MPA[:, :, 0].sum(1).astype(np.uint64)
            case "adds to rewards":
                out.reward_MP += paid
            case "pays nan":
                out.reward_MP[0, 0] = np.nan
            case "goes on":
                self.seed[before] += np.uint64(1)
            case "pays on":
                out.reward_MP[before] = 1.0
            case "ends for one":
                out.terminated_MP[:, 1] = False
            case "ends in both ways":
                out.truncated_MP[:] = out.terminated_MP
            case "wins early":
                out.winner_M[count == 2] = 1
            case "team seven wins":
                out.winner_M[self.over] = 7

    def script(self, bot_MP, out):
        super().script(bot_MP, out)
        if self.fault == "fickle bot":
            out[bot_MP >= 0] = self.draw.integers(7)
        if self.fault == "forbidden bot":
            out[bot_MP >= 0] = 9

    def state(self):
        kept = super().state()
        match self.fault:
            case "keeps no state":
                kept["board"][:] = 0
            case "forgets the end":
                kept["over"][:] = False
            case "lends its state":
                kept["board"] = self.board
        return kept

    def frame(self, match):
        return {"board": self.board[match]} if self.fault == "frames of arrays" else super().frame(match)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_game_that_breaks_a_rule_is_told_which(fault):
    kind = type("Faulty", (Faulty,), {"fault": fault})
    with pytest.raises(GameBroken, match=FAULTS[fault]):
        # Half way is where a copy is taken up again: at that step some matches have ended.
        check_game(kind, steps=28)


def test_a_game_without_fault_is_let_through():
    check_game(Faulty, steps=60)


def test_short_matches_are_also_taken_up_again():
    """Tic-tac-toe ends within nine steps; that a state is exact is found out all the same."""

    def make(matches):
        game = make_game("pettingzoo:classic.tictactoe_v3", matches)
        state = game.state

        def forgetful():
            kept = state()
            kept["seeds"] = kept["seeds"] + np.uint64(1)
            return kept

        game.state = forgetful
        return game

    with pytest.raises(GameBroken):
        check_game(make, steps=12)
