"""Live matches: begun, watched, played in, and kept as replays. A browser sees one through a Feed.

In:      an open platform; callers, what they want to play.
Out:     Match values, Feeds of what is to be seen, answers to what a person does in a match.
Kept:    the game runs in a process of its own (`train.live`), which alone decides what an action does; this one loads
         no torch and never waits for a tick. A match of another team is not there. A person may have MOST_EACH matches
         at a time, everybody together MOST_TOGETHER.
Not here: the wire (`api.matches`), one match (`games.live`), matches that nobody watches (`flows.arena`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLong
from dataclasses import dataclass, field, replace
from typing import Any

from cerulea.compute.launcher import environment
from cerulea.core.clock import new_id
from cerulea.core.errors import CeruleaError, EngineFailed, FileTrouble, KeyReused, NotFound, QueueFull, RateLimited
from cerulea.core.restoring import restore
from cerulea.flows.feeds import Feed
from cerulea.flows.model_folders import check_plays, find_model, find_registered
from cerulea.flows.platform import Platform
from cerulea.flows.replays import replay_path
from cerulea.games.catalog import refuse_imports
from cerulea.people import Caller
from cerulea.serve.threads import engine_environment

log = logging.getLogger("cerulea.play")

COMMAND = (sys.executable, "-m", "cerulea.train.live")
BOT = "bot:"
MOST_EACH = 4  # unfinished matches of one person
MOST_TOGETHER = 16
MOST_SHOWN = 4  # who wait for frames of a replay; they come one after the other
REMEMBERED = 1_000  # matches that have ended; their replays stay
BEGIN_WAIT_S = 20.0  # how long whoever asks waits for a match to be loaded
TURN_S = 60.0  # how long a game without time of its own waits for a person
STOP_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A match as somebody asks for it."""

    game: str
    players: tuple[str, ...]  # for each team, or for each place: a model's label or `bot:NAME`
    seed: int | None = None
    speed: float = 1.0  # times the game's own time
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A match as it stands."""

    id: str
    game: str
    players: tuple[str, ...]
    seed: int
    speed: float
    team: str
    person: str
    created_at: int  # ms
    status: str = "loading"  # then running; ended or failed
    version: str = ""
    seats: tuple[str, ...] = ()  # who plays each place when no person does
    teams: tuple[int, ...] = ()  # of each place
    heads: tuple[Mapping[str, Any], ...] = ()
    step_s: float = 0.0
    limit: int = 0
    step: int = 0
    winner: int | None = None  # the team; -1 for a draw
    cut: bool = False  # by the limit of time
    stopped: bool = False  # by a person
    replay: str = ""
    trouble: Mapping[str, str] | None = None  # why it failed

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in ("ended", "failed")


class Matches:
    """All live matches of one program, and the process that they run in. Safe to use from several threads."""

    def __init__(self, platform: Platform, *, command: Sequence[str] = COMMAND) -> None:
        self.platform, self.command = platform, command
        self.late: dict[str, float] = {}  # how late ticks were, as the process tells it
        self._lock = threading.RLock()
        self._matches: dict[str, Match] = {}
        self._feeds: dict[str, list[Feed]] = {}
        self._begun: dict[str, Future[Match]] = {}
        self._asked: dict[str, Future[dict[str, Any]]] = {}
        self._shown: set[str] = set()  # those of _asked that wait for frames of a replay
        self._keyed: dict[tuple[str, str], tuple[Wish, str]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    # -- matches -------------------------------------------------------------------------------------

    def begin(self, caller: Caller, wish: Wish, *, key: str | None = None) -> Match:
        """Begin a match; with a key that came before, the match of then.

        Raises:
            NotFound: no such game, bot or model; names the nearest.
            GameInvalid: a game that would import a module of the caller's choice.
            ModelKindWrong, AgentUnfit: a model that cannot play it.
            RateLimited, QueueFull: too many matches.
            KeyReused: the key came before with another wish.
        """
        refuse_imports(wish.game)
        folders = self._folders(caller, wish)
        seed = int.from_bytes(os.urandom(6), "big") if wish.seed is None else wish.seed
        with self._lock:
            if key is not None and (first := self._keyed.get((caller.actor, key))) is not None:
                if first[0] != wish:
                    raise KeyReused("That Idempotency-Key came before with another match.", fix="Use a new key.")
                return self._matches[first[1]]
            self._make_room(caller)
            match = Match(
                id=new_id("match"),
                game=wish.game,
                players=wish.players,
                seed=seed,
                speed=wish.speed,
                team=caller.team,
                person=caller.person,
                created_at=self.platform.clock.now(),
            )
            begun: Future[Match] = _awaited()
            self._begun[match.id] = begun
            self._matches[match.id], self._feeds[match.id] = match, []
            if key is not None:
                self._keyed[caller.actor, key] = (wish, match.id)
        path = replay_path(self.platform.settings, match.team, match.id)
        asked = {
            "id": match.id,
            "game": wish.game,
            "options": dict(wish.options),
            "players": list(wish.players),
            "folders": folders,
            "seed": seed,
            "speed": wish.speed,
            "turn_s": TURN_S,
            "replay": str(path),
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock:
                if not begun.done():  # else the process before ended in this moment, and this match with it
                    self._tell({"begin": asked})
            return begun.result(BEGIN_WAIT_S)
        except TooLong:
            return match  # its kernels are being compiled; it begins when they are
        except CeruleaError:
            self._forget(match.id)
            raise
        except OSError as error:
            self._forget(match.id)
            raise FileTrouble(
                f"The match cannot be kept: {error}.", fix=f"Make {path.parent} a folder that can be written."
            ) from error

    def get(self, caller: Caller, match: str) -> Match:
        """One match.

        Raises:
            NotFound: there is none of that name for this caller.
        """
        with self._lock:
            found = self._matches.get(match)
        if found is None or (caller.teams is not None and found.team not in caller.teams):
            raise NotFound(f"There is no match {match[:60]!r}.", fix="See what there is: GET /api/matches")
        return found

    def newest(self, caller: Caller) -> list[Match]:
        """The matches that the caller may see, the newest first."""
        with self._lock:
            found = list(self._matches.values())
        return [m for m in reversed(found) if caller.teams is None or m.team in caller.teams]

    def stop(self, caller: Caller, match: str) -> Match:
        """End a match where it stands; its replay is kept.

        Raises:
            NotFound: there is none of that name for this caller.
        """
        found = self.get(caller, match)
        if not found.over:
            self._tell({"stop": match})
        return found

    # -- watching and playing --------------------------------------------------------------------------

    def watch(self, caller: Caller, match: str, hand: str = "") -> Feed:
        """What happens in a match from now on; in the running event loop. Places are taken under the name `hand`.

        Raises:
            NotFound: there is none of that name for this caller.
        """
        feed = Feed(asyncio.get_running_loop(), (caller.team, caller.person), hand)
        with self._lock:
            found = self.get(caller, match)
            feed.put({"type": "match", "match": found})
            if not found.over:
                self._feeds[match].append(feed)
                self._tell({"watch": [match, len(self._feeds[match])]})
        return feed

    def unwatch(self, match: str, feed: Feed) -> None:
        """A watcher has gone."""
        with self._lock:
            feeds = self._feeds.get(match, [])
            if feed in feeds:
                feeds.remove(feed)
                self._tell({"watch": [match, len(feeds)]})

    def hands(self, match: str, feed: Feed) -> set[str]:
        """All hands of whoever watches through `feed`, its own and those of his other lines to the match."""
        with self._lock:
            return {feed.hand, *(one.hand for one in self._feeds.get(match, []) if one.whose == feed.whose)}

    def act(self, verb: str, match: str, *values: Any) -> Future[dict[str, Any]]:
        """Let a person take a place, leave it, or order an action; done when the process has said yes.

        The future raises what the process refuses with: UnknownSeat, SeatTaken, ActionLate, ActionIllegal.
        """
        ref, done = new_id("act"), _awaited()
        with self._lock:
            if self._matches[match].over:
                done.set_exception(NotFound("The match is over.", fix="See its replay."))
            else:
                self._asked[ref] = done
                self._tell({verb: [match, *values, ref]})
        return done

    def frames(self, path: str, first: int, count: int) -> list[dict[str, Any]]:
        """Some frames of a replay, computed anew.

        Raises:
            CeruleaError: the replay cannot be read, or is of another version of its game.
            QueueFull: too many ask for frames.
        """
        ref = new_id("show")
        with self._lock:
            if len(self._shown) >= MOST_SHOWN:
                raise QueueFull(f"{len(self._shown)} replays are being computed; the most is {MOST_SHOWN}.")
            self._shown.add(ref)
            shown = self._asked[ref] = _awaited()
        wish = {"ref": ref, "replay": path, "first": first, "count": count, "within_s": BEGIN_WAIT_S}
        try:
            self._tell({"show": wish})
            return list(shown.result(BEGIN_WAIT_S)["frames"])
        except TooLong:
            raise EngineFailed("The replay was not computed in time.", fix="Ask for fewer frames.") from None
        finally:
            with self._lock:
                self._asked.pop(ref, None)
                self._shown.discard(ref)

    def close(self) -> None:
        """End the process, and with it every match."""
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._listener.join()

    # -- the process ---------------------------------------------------------------------------------

    def _folders(self, caller: Caller, wish: Wish) -> dict[str, str]:
        """Where the models among the players lie."""
        find = find_registered if caller.key else find_model
        folders = {}
        for label in dict.fromkeys(wish.players):
            if not label.startswith(BOT):
                model = find(self.platform, label, teams=caller.teams)
                check_plays(model)
                folders[label] = str(model.folder)
        return folders

    def _forget(self, match: str) -> None:
        """It is as if it had never been."""
        with self._lock:
            for known in (self._matches, self._feeds, self._begun):
                known.pop(match, None)
            self._keyed = {k: v for k, v in self._keyed.items() if v[1] != match}

    def _make_room(self, caller: Caller) -> None:
        going = [m for m in self._matches.values() if not m.over]
        own = sum(m.person == caller.person and m.team == caller.team for m in going)
        if own >= MOST_EACH:
            raise RateLimited(
                f"{own} matches of {caller.person} are going on; the most is {MOST_EACH}.",
                fix="Wait for one to end, or stop one: POST /api/matches/ID/stop",
                retry_after_s=30,
            )
        if len(going) >= MOST_TOGETHER:
            raise QueueFull(f"{len(going)} matches are going on; the most is {MOST_TOGETHER}.", retry_after_s=30)
        ended = [m.id for m in self._matches.values() if m.over]
        for old in ended[: max(0, len(ended) - REMEMBERED)]:
            self._forget(old)

    def _tell(self, message: dict[str, Any]) -> None:
        """Send the process a message; it is started where there is none."""
        with self._lock:
            if self._process is None:
                if self._closed or not ({"begin", "show"} & set(message)):
                    return
                self._process = self._start()
            assert self._process.stdin is not None
            # A process that has just ended hears nothing; who waits is told so when its output ends.
            with contextlib.suppress(OSError):
                self._process.stdin.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
                self._process.stdin.flush()

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # One thread: nets of agents are small, and the other cores are for training.
                env={**environment(), **engine_environment(1)},
                start_new_session=True,
            )
        except OSError as error:
            raise EngineFailed(
                f"The process of matches cannot start: {error}.", fix="Free memory; try again."
            ) from error
        self._listener = threading.Thread(target=self._listen, args=(process,), name="matches", daemon=True)
        self._listener.start()
        return process

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                try:
                    for kind, value in json.loads(line).items():
                        self._hear(kind, value)
                except Exception:  # one message that is not understood ends no match
                    log.exception("a message of the process of matches: %.200r", line)
        finally:
            self._bury(process)

    def _hear(self, kind: str, value: dict[str, Any]) -> None:
        match kind:
            case "frame":
                with self._lock:
                    found = self._matches.get(value["id"])
                    if found is None:
                        return
                    self._matches[found.id] = replace(found, step=value["step"])
                    feeds = list(self._feeds.get(found.id, []))
                for feed in feeds:
                    feed.put({"type": "frame", **value})
            case "done" | "shown" | "refused":
                with self._lock:
                    asked = self._asked.pop(value["ref"], None)
                if asked is not None and kind == "refused":
                    asked.set_exception(restore(value["error"]))
                elif asked is not None:
                    asked.set_result(value)
            case "begun":
                self._change(
                    value["id"],
                    status="running",
                    version=value["version"],
                    seats=tuple(value["seats"]),
                    teams=tuple(value["teams"]),
                    heads=tuple(value["heads"]),
                    step_s=value["step_s"],
                    limit=value["limit"],
                )
            case "ended":
                keys = ("step", "winner", "cut", "stopped")
                self._change(value["id"], status="ended", replay=value["id"], **{key: value[key] for key in keys})
            case "failed":
                self._change(value["id"], status="failed", trouble=value["error"])
            case "late":
                self.late = value

    def _change(self, match: str, **news: Any) -> None:
        with self._lock:
            if match not in self._matches:
                return
            found = self._matches[match] = replace(self._matches[match], **news)
            begun = self._begun.pop(match, None)
            feeds = list(self._feeds[match])
            if found.over:
                self._feeds[match] = []
        for feed in feeds:
            feed.put({"type": "ended" if found.over else "match", "match": found})
        if begun is None:
            return
        if found.status == "failed":
            begun.set_exception(restore(found.trouble or {}))
        else:
            begun.set_result(found)

    def _bury(self, process: subprocess.Popen[bytes]) -> None:
        """Its process has ended: so has every match, and whoever waits is told."""
        error = EngineFailed("The process of matches has ended.", fix="Begin the match anew.")
        with self._lock:
            if self._process is process:
                self._process = None
            asked, self._asked = list(self._asked.values()), {}
            # Under one lock, so that nobody asks or begins anything meanwhile that no process will ever answer.
            for match in [m.id for m in self._matches.values() if not m.over]:
                self._change(match, status="failed", trouble=error.as_json())
        for one in asked:
            one.set_exception(error)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        process.wait()


def _awaited() -> Future[Any]:
    """A future that whoever waits for it cannot cancel: what comes when nobody waits any more can still be set."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future
