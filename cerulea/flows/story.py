"""What a run yields, and what a kind of recipe brings to the story of a run.

In:      nothing: these are values and a protocol.
Kept:    the story of a run (`flows.train`) is told once; a Story has what differs between kinds of recipes, and none
         of what they share: signals, locks, records, processes that are lost.
Not here: the kinds themselves (`flows.train_text`, `flows.train_play`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cerulea.core.values import Checkpoint, Evaluation, PlayProgress, Progress, Usage

if TYPE_CHECKING:
    import torch

    from cerulea.nn.precision import Execution, Machine
    from cerulea.train.parallel import Team
    from cerulea.train.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Started:
    """A run is about to take its first step."""

    run: str
    folder: Path
    recipe: Recipe
    execution: Execution
    parameters: int
    facts: dict[str, Any]  # what else is known by now: tokens to train on, or the game that is played
    resumed: Checkpoint | None  # where it goes on from


@dataclass(frozen=True, slots=True)
class Note:
    """One sentence that a person should read."""

    text: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What is to be seen of a run between two steps: the match being played, as `Game.frame` tells it."""

    frame: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run has cost by now, as money is written."""

    amount: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A run has stopped: which checkpoint is best, and what it took."""

    run: str
    best: Path  # the checkpoint's folder
    digest: str  # of that checkpoint
    card: dict[str, Any]
    stop_reason: str
    finished: bool  # it reached its end; otherwise it was asked to stop and can go on
    step: int
    model_step: int  # of the best checkpoint
    train_s: float
    usage: Usage
    score: dict[str, Any]  # how good it is, as its kind measures that


Event = Started | Note | Seen | Spent | Progress | PlayProgress | Evaluation | Checkpoint | Trained


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run went, as its last checkpoint tells it."""

    best: Path
    card: dict[str, Any]
    stop_reason: str
    step: int
    train_s: float
    usage: Usage
    score: dict[str, Any]


class Story(Protocol):
    """A run of one kind, on one process. Its methods are called in the order in which they stand here."""

    end_reasons: tuple[str, ...]  # with any other reason a run is not finished and can be resumed

    def prepare(self, report: Callable[[str, int, int], None]) -> None:
        """Make ready what is read, such as packed texts; the leader does it before the others."""

    def begin(self, machine: Machine, device: torch.device, team: Team, checkpoint: Checkpoint | None) -> Execution:
        """Choose how to compute: as the checkpoint did, or as is best; the leader's choice holds for all."""

    @property
    def parameters(self) -> int:
        """Of the model that is trained."""

    @property
    def facts(self) -> dict[str, Any]:
        """What a person wants to know before the first step."""

    @property
    def record(self) -> dict[str, Any]:
        """What run.json keeps beside what every run's does."""

    def warnings(self) -> list[str]:
        """What a person might not have meant, as sentences."""

    def steps(
        self,
        folder: Path,
        *,
        resume: bool,
        verified: Checkpoint | None,
        should_stop: Callable[[], str],
        began: float,
        say: Callable[[str], None],
    ) -> Iterator[Progress | PlayProgress | Evaluation | Checkpoint | Seen]:
        """The run itself; what it says stands between its events."""

    def outcome(self, folder: Path, last: Checkpoint) -> Outcome:
        """What came out, from the run's folder."""

    def smaller(self) -> str:
        """What to type where the memory was full."""
