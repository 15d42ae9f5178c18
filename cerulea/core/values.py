"""The frozen values that cross from the learning wing to the rest of the house.

Nothing here has behaviour beyond arithmetic; nothing here may be changed after it is made.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What was used, as integers that only grow; each field is one thing a price list can name."""

    trained_tokens: int = 0  # tokens whose gradient was computed
    prompt_tokens: int = 0  # tokens read before the first one written
    completion_tokens: int = 0  # tokens written
    agent_steps: int = 0  # decisions of learning players in games, each player counted
    device_ms: int = 0  # wall-clock milliseconds times the number of processes

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Usage)})

    def at_least(self, other: Usage) -> Usage:
        """Each meter at its higher reading: what was counted twice, before and after a resume, counts once."""
        return Usage(**{f.name: max(getattr(self, f.name), getattr(other, f.name)) for f in fields(Usage)})

    def as_json(self) -> dict[str, int]:
        """The meters by name."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One optimizer step of a run."""

    step: int  # steps done, 1 after the first
    tokens: int  # tokens trained on since the run began, resumes included
    loss: float  # nats per token of this step's batch
    learning_rate: float  # multiplier of every peak rate, in [0, 1]
    gradient_norm: float  # before clipping
    tokens_per_s: float  # of this step
    flops_utilization: float  # share of the machine's measured peak
    elapsed_s: float  # since the command began, earlier sessions of the run included
    fraction: float  # how much of the run is done, in [0, 1]
    skipped: str = ""  # why the optimizer step was left out, or nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayProgress:
    """One update of a self-play run: a rollout and the optimizer steps on it."""

    step: int  # updates done, 1 after the first
    agent_steps: int  # decisions of learning players since the run began, resumes included
    matches: int  # matches finished since the run began
    loss: float  # policy, value and entropy together
    policy_loss: float
    value_loss: float
    entropy: float  # nats, over legal actions, a mean over decisions; one without a choice has 0
    divergence: float  # KL of the policy that acted from the one that was trained, nats (Schulman's k3 estimate)
    clipped: float  # share of decisions whose ratio was clipped
    explained_variance: float  # of the returns by the values
    learning_rate: float  # multiplier of the peak rate, in [0, 1]
    gradient_norm: float  # before clipping
    agent_steps_per_s: float  # of this update, of all who played: past selves and scripted players too
    match_years_per_day: float  # game time simulated at this speed; 0 where a game has no time of its own
    staleness: float  # mean versions between the policy that acted and the one that is trained: 0, they take turns
    reuse: float  # times a decision was trained on, over decisions made
    episode_return: float  # mean of finished matches of learning players, as the game pays
    episode_steps: float  # mean length of finished matches
    win_shares: dict[str, float]  # by opponent, of matches that ended lately
    meters: dict[str, float]  # the game's own counters, means of finished matches
    rating: float  # online, in points above the random player; 0 where nobody is rated
    elapsed_s: float  # since the command began, earlier sessions of the run included
    fraction: float  # how much of the run is done, in [0, 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The whole held-out set, scored during a run, and what the model writes at this point."""

    step: int
    loss: float  # nats per token
    bits_per_byte: float
    elapsed_s: float
    evaluate_s: float  # seconds that this evaluation took
    best: bool  # lowest so far
    sample: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a person wants to know about a model before using it."""

    preset: str  # gpt2, compat or modern; or the family of an imported folder
    parameters: int
    context: int
    vocab: int
    bits_per_byte: float | None = None
    loss: float | None = None  # nats per token on the held-out set
    trained_tokens: int = 0
    corpus: str = ""  # digest of the documents
    tokenizer: str = ""  # digest of the tokenizer
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A folder on disk that was complete and verified before this value existed."""

    folder: Path
    digest: str  # sha256 of the manifest
    step: int
    card: ModelCard
    write_s: float = 0.0  # seconds the writing took, beside training
    stall_s: float = 0.0  # seconds that training stood still for it
