"""The wire format of games, matches and replays, and of what is said over a match's websocket."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from cerulea.api.schema import FAR, Count, In, Moment, Out, Text
from cerulea.core.clock import iso
from cerulea.core.errors import GameInvalid, Invalid
from cerulea.flows.play import Match, Wish
from cerulea.flows.replays import Kept

GAME = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,119}$"
PLAYER = r"^[A-Za-z0-9][A-Za-z0-9._@:+-]{0,199}$"
GameName = Annotated[str, StringConstraints(pattern=GAME), Field(examples=["rift-skirmish"])]
PlayerName = Annotated[str, StringConstraints(pattern=PLAYER), Field(examples=["bot:laner"])]
OPTION = r"[a-z][a-z0-9_]{0,39}"
LARGEST = 1 << 48  # of any number among options, as in a recipe
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Option = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")] | bool | Whole | Number


class GameOut(Out):
    """A game that can be played."""

    name: str = Field(examples=["rift-skirmish"])
    about: str


class GameList(Out):
    """Games."""

    items: list[GameOut]


class NewMatch(In):
    """A match to begin."""

    game: GameName = Field(description="As GET /api/games lists it, or `gymnasium:ID`, `pettingzoo:MODULE`.")
    players: list[PlayerName] = Field(
        min_length=1,
        max_length=16,
        description="Who plays each team, or each place: a model (`name`, `name@3`, `name:alias`) or `bot:NAME`. "
        "A place can be taken from them over the websocket.",
        examples=[["bot:laner", "bot:random"]],
    )
    seed: Count | None = Field(None, description="Decides the match; drawn by default.")
    speed: float = Field(1.0, ge=0.1, le=16.0, description="Times the game's own time.")
    options: dict[str, Option] = Field(
        default_factory=dict, max_length=16, description="Of the game, such as `draft` of rift."
    )

    def wish(self) -> Wish:
        """As the story takes it.

        Raises:
            GameInvalid: the name of an option that cannot be one.
        """
        for name in self.options:
            if not re.fullmatch(OPTION, name):
                raise GameInvalid(f"{name[:40]!r} is no option of a game.", fix="Names are like draft or max_steps.")
        return Wish(
            game=self.game,
            players=tuple(self.players),
            seed=self.seed,
            speed=self.speed,
            options=dict(self.options),
        )


class HeadOut(Out):
    """One choice of an action, by the names of what can be chosen."""

    name: str
    actions: list[str]


class MatchOut(Out):
    """A match as it stands."""

    id: str = Field(examples=["match-7f3a91c2d0b4"])
    game: str
    version: str = Field(description="Of the game; empty while it is being loaded.")
    players: list[str]
    seats: list[str] = Field(description="Who plays each place when no person does.")
    teams: list[int] = Field(description="Of each place.")
    heads: list[HeadOut]
    seed: int
    speed: float
    step_s: float = Field(description="Seconds of a step at speed 1.")
    limit: int = Field(description="Most steps; 0 where nothing limits it.")
    team: str
    person: str
    created_at: Moment
    status: Literal["loading", "running", "ended", "failed"]
    step: int
    winner: int | None = Field(description="The team that has won, -1 for a draw; null while it goes on.")
    cut: bool = Field(description="It ended by its limit of time.")
    stopped: bool = Field(description="It ended because a person wished so.")
    replay: str | None = Field(description="The replay's id, once it is over.")
    trouble: dict[str, str] | None = Field(description="Why it failed: code, what, why, fix.")


class MatchList(Out):
    """Matches, the newest first."""

    items: list[MatchOut]


class ReplayOut(Out):
    """A match that was kept."""

    id: str = Field(examples=["match-7f3a91c2d0b4"])
    game: str
    version: str
    seats: list[str]
    seed: int
    steps: int
    winner: int = Field(description="The team that won, -1 for a draw.")
    cut: bool
    kept_at: Moment


class ReplayList(Out):
    """Replays, the newest first."""

    items: list[ReplayOut]


class FrameOut(Out):
    """What is to be seen after a step."""

    step: int
    frame: dict[str, Any]


class FrameList(Out):
    """Frames, in order; fewer than asked for where the match ends."""

    items: list[FrameOut]


# -- what a person says over a websocket ---------------------------------------------------------------


class Take(In):
    """Play a place from now on."""

    type: Literal["take"]
    seat: int = Field(ge=0, le=1_000)
    ref: Text = ""


class Leave(In):
    """Give a place back."""

    type: Literal["leave"]
    seat: int = Field(ge=0, le=1_000)
    ref: Text = ""


class Act(In):
    """What to do in the step after a frame."""

    type: Literal["act"]
    seat: int = Field(ge=0, le=1_000)
    step: int = Field(ge=0, le=FAR)
    action: list[Annotated[int, Field(ge=0, le=1_000_000)]] = Field(min_length=1, max_length=64)
    ref: Text = ""


Said = Take | Leave | Act
_SAID: TypeAdapter[Said] = TypeAdapter(Annotated[Said, Field(discriminator="type")])


def read_said(text: str | None) -> Said:
    """One message of a person; None for one that is no text.

    Raises:
        Invalid: it is none.
    """
    if text is None:
        raise Invalid("The message is bytes.", fix="Send text: one JSON object a message.")
    try:
        return _SAID.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])[:80]
        raise Invalid(
            f"{place or 'The message'}: {first['msg']}."[:300],
            fix='Send {"type": "take", "seat": 0}, {"type": "leave", "seat": 0} or '
            '{"type": "act", "seat": 0, "step": 12, "action": [3]}.',
        ) from error


# -- values ---------------------------------------------------------------------------------------------


def match_out(match: Match) -> MatchOut:
    """A match on the wire."""
    return MatchOut(
        id=match.id,
        game=match.game,
        version=match.version,
        players=list(match.players),
        seats=list(match.seats),
        teams=list(match.teams),
        heads=[HeadOut(name=head["name"], actions=head["actions"]) for head in match.heads],
        seed=match.seed,
        speed=match.speed,
        step_s=match.step_s,
        limit=match.limit,
        team=match.team,
        person=match.person,
        created_at=iso(match.created_at),
        status=match.status,  # type: ignore[arg-type]
        step=match.step,
        winner=match.winner,
        cut=match.cut,
        stopped=match.stopped,
        replay=match.replay or None,
        trouble=dict(match.trouble) if match.trouble else None,
    )


def replay_out(kept: Kept) -> ReplayOut:
    """A replay on the wire."""
    return ReplayOut(
        id=kept.id,
        game=kept.game,
        version=kept.version,
        seats=list(kept.seats),
        seed=kept.seed,
        steps=kept.steps,
        winner=kept.winner,
        cut=kept.cut,
        kept_at=iso(kept.kept_at),
    )
