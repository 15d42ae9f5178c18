"""The story of an agent's run: a game → matches against itself → the last checkpoint, rated against fixed opponents.

In:      a self-play recipe.
Out:     what `flows.train` needs of a kind (a `flows.story.Story`); between steps the match that is being played.
Not here: what every run shares (`flows.train`), the updates themselves (`train.selfplay`), matches of models that are
         registered (`flows.arena`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from cerulea.core.errors import AgentUnfit, NotFound, RecipeInvalid
from cerulea.core.files import read_json
from cerulea.core.settings import Settings
from cerulea.core.values import Checkpoint, PlayProgress, Usage
from cerulea.flows.arena import ANCHOR, results_of
from cerulea.flows.machine import know_machine
from cerulea.flows.ready import compiling
from cerulea.flows.story import Outcome, Seen
from cerulea.games.catalog import find_maker, make_game
from cerulea.games.game import Game, judged_options, observation_buffers, tick_buffers
from cerulea.games.match import RANDOM
from cerulea.games.rating import rate
from cerulea.nn.policy import Policy
from cerulea.nn.precision import Execution, Machine
from cerulea.train.agent import AGENT, is_agent, load_agent, shape_for
from cerulea.train.fitting import bots_of, refuse_too_large
from cerulea.train.judge import judge
from cerulea.train.parallel import Team
from cerulea.train.play_recipe import PlayRecipe
from cerulea.train.play_state import HALVES
from cerulea.train.ppo_kernels import are_compiled
from cerulea.train.selfplay import self_play

SEEN_S = 0.5  # between looks at the match that is being played
RATED_BY = 100  # matches against each scripted player, when a run has reached its end
RATED_S = 60.0  # about so long they may take: a slow game is played less often


class PlayStory:
    """One self-play run."""

    end_reasons: tuple[str, ...] = tuple(PlayRecipe.ends)

    def __init__(self, settings: Settings, recipe: PlayRecipe) -> None:
        self.settings, self.recipe = settings, recipe
        self.game: Game
        self.second: Game | None = None
        self.team: Team
        self.device = torch.device("cpu")
        self.memory_bytes = 0
        self.report: Callable[[str, int, int], None] = lambda what, done, total: None

    def make(self, matches: int) -> Game:
        """The recipe's game with so many matches."""
        return make_game(self.recipe.game.name, matches, **self.recipe.game.options)

    def prepare(self, report: Callable[[str, int, int], None]) -> None:
        """Make the game once and step it, so that its kernels lie compiled on disk for every process.

        Raises:
            NotFound, GameInvalid: no such game. RecipeInvalid: more matches than memory holds, or a scripted player
                that the game does not have.
        """
        name = self.recipe.game.name
        find_maker(name)
        self.report = report
        learner = "" if are_compiled() else "; the learner's loops are compiled in the first step, once"
        report(f"{compiling(name, scripted=True) or f'making ready {name}'}{learner}", 0, 0)
        game = self.make(1)
        bots_of(self.recipe, game)
        sized = copy.copy(game)
        sized.matches = self.recipe.game.matches
        shape = shape_for(game.schema, self.recipe.model, game.teams)
        # Before the matches are made and a run is begun: so many may not fit in memory by far.
        refuse_too_large(self.recipe, sized, shape, 1, know_machine(self.settings)[0].memory_bytes)
        look, tick = observation_buffers(game.schema, 1, game.players), tick_buffers(1, game.players)
        action = torch.zeros(1, game.players, len(game.schema.heads), dtype=torch.int32).numpy()
        game.observe(look)
        first = 0
        for number, head in enumerate(game.schema.heads):
            action[..., number] = look.mask_MPN[..., first : first + head.size].argmax(-1)
            first += head.size
        game.step(action, tick)

    def begin(self, machine: Machine, device: torch.device, team: Team, checkpoint: Checkpoint | None) -> Execution:
        """The part of the matches that this process plays, in float32; beside a GPU in two halves, as the run began.

        Raises:
            RecipeInvalid: the matches cannot be shared between the processes.
        """
        self.team, self.device, self.memory_bytes = team, device, machine.memory_bytes
        matches = self.recipe.game.matches
        if matches % team.ranks:
            raise RecipeInvalid(
                f"{matches:,} matches cannot be shared by {team.ranks} processes.",
                fix=f"Use a multiple: --set game.matches={matches // team.ranks * team.ranks or team.ranks}",
            )
        halves = team.leaders(self._halves(matches // team.ranks, checkpoint))
        self.game = self.make(matches // team.ranks // halves)
        self.second = self.make(self.game.matches) if halves == 2 else None
        return Execution(
            device=machine.device,
            precision="fp32",
            compile=False,
            threads=machine.threads,
            peak_flops=machine.peak_flops("fp32"),
            why="agents are small",
        )

    def _halves(self, matches: int, checkpoint: Checkpoint | None) -> int:
        """In how many games this process's matches are held: two beside a GPU, which decides in one meanwhile."""
        if checkpoint is not None:
            return int(read_json(checkpoint.folder / "state.json")["binding"].get(HALVES, 1))
        # A game with threads of its own uses the cores by itself, and not all of Numba's ways bear two at once.
        alone = matches % 2 or self.recipe.game.options.get("threads", 1) != 1
        return 1 if self.device.type == "cpu" or alone else 2

    @property
    def parameters(self) -> int:
        """Of the policy."""
        shape = shape_for(self.game.schema, self.recipe.model, self.game.teams)
        return sum(p.numel() for p in Policy(shape).parameters())

    @property
    def facts(self) -> dict[str, Any]:
        """The game."""
        return {
            "game": self.game.name,
            "game_version": self.game.version,
            "players": self.game.players,
            "sides": max(self.game.teams) + 1,
            "matches": self.recipe.game.matches,
        }

    @property
    def record(self) -> dict[str, Any]:
        """The game, and what it shows, by digest."""
        return {
            "game": {
                "name": self.game.name,
                "version": self.game.version,
                "options": self.game.options,
                "schema": self.game.schema.digest(),
            }
        }

    def warnings(self) -> list[str]:
        """What the opponents cannot be."""
        found = []
        if not self.game.bots and self.recipe.opponents.bots and max(self.game.teams):
            found.append(f"{self.game.name} has no scripted players: those matches are played against itself.")
        return found

    def steps(
        self,
        folder: Path,
        *,
        resume: bool,
        verified: Checkpoint | None,
        should_stop: Callable[[], str],
        began: float,
        say: Callable[[str], None],
    ) -> Iterator[PlayProgress | Checkpoint | Seen]:
        """The run, and now and then a look at its first match."""
        run = self_play(
            self.recipe,
            self.game,
            folder,
            second=self.second,
            device=self.device,
            resume=resume,
            verified=verified,
            team=self.team,
            should_stop=should_stop,
            began=began,
            memory_bytes=self.memory_bytes,
            weights=None if verified else self._weights(),
            say=say,
        )
        seen = 0.0
        try:
            for event in run:
                yield event
                if self.team.leads and isinstance(event, PlayProgress) and monotonic() - seen > SEEN_S:
                    seen = monotonic()
                    yield Seen(self.game.frame(0))
        finally:
            run.close()  # type: ignore[attr-defined]

    def outcome(self, folder: Path, last: Checkpoint) -> Outcome:
        """The last checkpoint; of a run that has reached its end, rated, which is paid for as training is."""
        began = monotonic()
        state = read_json(last.folder / "state.json")["run"]
        card = read_json(last.folder / "card.json")
        score: dict[str, Any] = {"game": self.game.name, "game_version": self.game.version}
        if state["stop_reason"] in self.end_reasons and max(self.game.teams) == 1:
            score |= self._rated(last.folder, state)
        elif not max(self.game.teams):
            score["episode_return"] = card.get("extra", {}).get("episode_return")
        held_s = state["elapsed_s"] + monotonic() - began
        return Outcome(
            best=last.folder,
            card={**card, "preset": self.game.name, "extra": {**card.get("extra", {}), **score}},
            stop_reason=state["stop_reason"],
            step=state["step"],
            train_s=state["elapsed_s"],
            usage=Usage(agent_steps=state["agent_steps"], device_ms=int(1000 * held_s)),
            score=score,
        )

    def smaller(self) -> str:
        """Fewer matches at once."""
        return f"--set game.matches={max(1, self.recipe.game.matches // 2)}"

    def _weights(self) -> dict[str, torch.Tensor] | None:
        """Those of the agent that the recipe begins with.

        Raises:
            NotFound, WeightsInvalid: there is none.
            AgentUnfit: it sees or acts otherwise than the game now has it, or it has other sizes.
        """
        if not self.recipe.model.init:
            return None
        folder = Path(self.recipe.model.init).expanduser()
        if not is_agent(folder):
            raise NotFound(f"There is no agent in {folder}.", why=f"It has no {AGENT}.", fix="Check model.init.")
        agent = load_agent(folder)
        agent.check(self.game)
        shape = shape_for(self.game.schema, self.recipe.model, self.game.teams)
        if shape != agent.policy.shape:
            raise AgentUnfit(
                "The agent that the run begins with has other sizes than the recipe's [model].",
                fix="Use the recipe that it was trained with: cerulea show MODEL",
            )
        return dict(agent.policy.state_dict())

    def _rated(self, checkpoint: Path, state: dict[str, Any]) -> dict[str, Any]:
        """Rating above random with its error, shares won, the forgetting meter, behaviour."""
        per_match_s = self._seconds_of_a_match(state)
        n = max(20, min(RATED_BY, int(RATED_S / per_match_s / (len(self.game.bots) + 4)))) // 2 * 2
        name = self.recipe.name
        options = judged_options(self.game, self.recipe.game.options)
        judged = judge(
            lambda matches: make_game(self.game.name, matches, **options),
            checkpoint,
            name=name,
            opponents=(RANDOM, *self.game.bots),
            n=n,
            seed=self.recipe.train.seed ^ 0x0DD,  # of no match that it was trained in
            past=checkpoint,
            report=lambda other, done, total: self.report(f"rating against {other}: {done} of {total} matches", 0, 0),
        )
        ratings = {r.player: r for r in rate([r for s in judged.series for r in results_of(s)], ANCHOR)}
        own = ratings[name]
        return {
            "rating": round(own.rating, 2),
            "low": round(own.low, 2),
            "high": round(own.high, 2),
            "win_shares": {share.opponent: round(share.share, 4) for share in judged.shares},
            "timeouts": {share.opponent: round(share.timeouts / share.n, 4) for share in judged.shares},
            **{key: value for key, value in judged.as_json().items() if key != "forgetting"},
            "forgetting": judged.forgetting,
        }

    def _seconds_of_a_match(self, state: dict[str, Any]) -> float:
        """What a match took while training, which is more than it takes without."""
        return max(1e-4, float(state["stepping_s"]) / max(1, int(state["matches"])))
