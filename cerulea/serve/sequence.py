"""One request on its way through an engine: what every engine knows of it, and what ours does beside that.

Kept:    plain state; who changes it is the engine alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from cerulea.serve.request import Request, TokenLogprob

if TYPE_CHECKING:
    import numpy as np


class Grammar(Protocol):
    """What a sequence may write next."""

    @property
    def done(self) -> bool:
        """Whether nothing may follow."""
        ...

    def mask(self) -> np.ndarray:
        """allowed_V, bool."""
        ...

    def advance(self, token: int) -> None:
        """This token was written."""
        ...


@dataclass(slots=True, eq=False)
class Tracked:
    """One request on its way, whatever computes it."""

    request: Request
    tokens: list[int]  # the prompt, and what was written
    leased: int
    last_lease: bool = False  # there will be no more
    cached: int = 0  # tokens of the prompt that were not computed
    came_at: float = 0.0  # seconds, of the engine's clock
    started_at: float = 0.0
    first_at: float = 0.0

    @property
    def id(self) -> str:
        """Its request's."""
        return self.request.id

    @property
    def team(self) -> str:
        """Whose."""
        return self.request.team

    @property
    def written(self) -> int:
        """Tokens written."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def will_write(self) -> bool:
        """Whether it writes more than the token after its prompt."""
        return not self.request.embed and self.request.sampling.max_tokens > 1

    @property
    def begins(self) -> bool:
        """Whether it has written its first token and no other."""
        return self.written == 1

    @property
    def may_go_on(self) -> bool:
        """Whether computing its last known token is of use: a token after it is leased, or none is asked for."""
        most = self.request.sampling.max_tokens
        return self.request.embed or most == 0 or self.written < min(self.leased, most)


@dataclass(slots=True, eq=False)
class Sequence(Tracked):
    """The same in our own engine."""

    row: int = -1
    computed: int = 0  # tokens whose keys and values are in the row
    grammar: Grammar | None = None
    picker_state: Any = None  # what the picker keeps of it (counts for penalties)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    hidden_sum: Any = None  # for an embedding

    @property
    def to_read(self) -> int:
        """Tokens that are known and not computed yet."""
        return len(self.tokens) - self.computed
