"""The process of live matches: messages in, frames out, one line of JSON each; every match keeps its own time.

In:      on standard input, one line of JSON a message:
         {"begin": {id, game, options, players, folders, seed, speed, turn_s, replay}}, {"stop": id},
         {"take": [id, seat, person, ref]}, {"leave": [id, seat, person, ref]},
         {"order": [id, seat, person, step, action, ref]},
         {"watch": [id, number]}, {"show": {ref, replay, first, count, within_s}}.
Out:     on standard output: {"begun": {id, ...}} or {"failed": {id, error}}; {"frame": {id, step, frame, legal}};
         {"done": {ref}} or {"refused": {ref, error}}; {"ended": {id, winner, ...}}; {"shown": {ref, frames}};
         {"late": {...}}, how late ticks were, each second.
Kept:    it ends when its input ends. Ticks are due at fixed times from a match's beginning; one that is late moves the
         next ones rather than hurrying them. Games and agents are loaded beside the ticks, in a thread, and frames of
         replays are computed in another; those that come too late for whoever asked are not.
Not here: who may what, and who starts this (`flows.play`); a match itself (`games.live`).
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cerulea.core.errors import CeruleaError, Failed, NotFound
from cerulea.games.catalog import make_game
from cerulea.games.live import LiveMatch
from cerulea.train.players import open_players

TURN_S = 1.0  # of a step in a game without time of its own
SWITCH_S = 0.0005  # a tick waits no longer than this for a thread that loads something
LATE_KEPT = 4_000  # ticks over which lateness is told
TOLD_S = 1.0


@dataclass(slots=True)
class Table:
    """A match with its clock."""

    id: str
    match: LiveMatch
    period_s: float  # between steps
    turn_s: float  # how long a game without time waits for a person
    save: Callable[[LiveMatch], dict[str, Any]]
    due: float = 0.0
    waiting_since: float = 0.0
    watched: int = 0
    asked_to_stop: bool = False


@dataclass(slots=True)
class Hall:
    """All matches of this process."""

    say: Callable[[dict[str, Any]], None]
    tables: dict[str, Table] = field(default_factory=dict)
    early: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)  # for matches that are being loaded
    late_ms: deque[float] = field(default_factory=lambda: deque(maxlen=LATE_KEPT))
    told: float = 0.0

    def next_due(self) -> float | None:
        """When something is to be done; None where nothing is."""
        return min((table.due for table in self.tables.values()), default=None)

    def tick(self, now: float) -> None:
        """Step every match whose time has come."""
        for table in sorted(self.tables.values(), key=lambda t: t.due):
            if table.due <= now:
                self._step(table, time.monotonic())
        if now - self.told > TOLD_S and self.late_ms:
            self.told = now
            self.say({"late": lateness(self.late_ms)})

    def _step(self, table: Table, now: float) -> None:
        match = table.match
        if not match.game.step_s and match.waits and not table.asked_to_stop:
            table.waiting_since = table.waiting_since or now
            if now - table.waiting_since < table.turn_s:
                table.due = now + 0.02
                return
        if not table.waiting_since and not table.asked_to_stop:
            self.late_ms.append(1000 * (now - table.due))
        table.waiting_since = 0.0
        try:
            over = match.step() if not table.asked_to_stop else True
        except Exception as error:  # a player or a game that breaks ends its own match, and no other
            self._fail(table.id, error)
            return
        if (table.watched or over) and not self._show(table):
            return
        if over:
            del self.tables[table.id]
            self._end(table)
            return
        # A tick that was late does not make the next ones hurry.
        table.due = max(table.due + table.period_s, now)

    def _show(self, table: Table) -> bool:
        """Say what is to be seen; False where that has ended the match, because its game cannot tell."""
        match = table.match
        legal: dict[str, dict[str, Any]] = {}  # of each person, by place
        try:
            for i, seat in enumerate(match.seats):
                if seat.person:
                    legal.setdefault(seat.person, {})[str(i)] = match.legal(i)
            self.say({"frame": {"id": table.id, "step": match.number, "frame": match.frame(), "legal": legal}})
        except BrokenPipeError:  # whoever started this process is gone
            raise
        except Exception as error:
            self._fail(table.id, error)
            return False
        return True

    def _end(self, table: Table) -> None:
        match = table.match
        try:
            kept = table.save(match)
        except Exception as error:
            self._fail(table.id, error)
            return
        ended = {"id": table.id, "step": match.number, "winner": match.winner, "cut": match.cut}
        self.say({"ended": {**ended, "stopped": table.asked_to_stop, **kept}})

    def _fail(self, match: str, error: Exception) -> None:
        self.tables.pop(match, None)
        failed = error if isinstance(error, CeruleaError) else Failed(f"{type(error).__name__}: {str(error)[:300]}.")
        self.say({"failed": {"id": match, "error": failed.as_json()}})

    def take_in(self, message: Mapping[str, Any]) -> None:
        """Do what one message asks."""
        if "opened" in message:
            opened = message["opened"]
            if isinstance(opened, Exception):
                self.early.pop(message["id"], None)
                self._fail(message["id"], opened)
                return
            table: Table = opened
            table.due = time.monotonic() + table.period_s
            self.tables[table.id] = table
            self.say({"begun": {"id": table.id, **message["about"]}})
            for early in self.early.pop(table.id, []):
                self.take_in(early)
            self._show(table)
        elif "begin" in message:
            self.early[message["begin"]["id"]] = []
        else:
            self._obey(message)

    def _obey(self, message: Mapping[str, Any]) -> None:
        (verb, value), *_ = message.items()
        match = value if isinstance(value, str) else value[0]
        if match in self.early:
            self.early[match].append(message)
            return
        table = self.tables.get(match)
        if table is None:  # it has ended, which may not have been heard yet
            if verb in ("take", "leave", "order"):
                over = NotFound("The match is over.", fix="See its replay.")
                self.say({"refused": {"ref": value[-1], "error": over.as_json()}})
            return
        if verb == "watch":
            table.watched = value[1]
            if table.watched:
                self._show(table)
            return
        if verb == "stop":
            table.asked_to_stop, table.due = True, 0.0
            return
        *_, ref = value
        try:
            if verb == "take":
                table.match.take(value[1], value[2])
            elif verb == "leave":
                table.match.leave(value[1], value[2])
            else:
                table.match.order(value[1], value[2], value[3], value[4])
                if table.waiting_since:
                    table.due = 0.0
        except CeruleaError as error:
            self.say({"refused": {"ref": ref, "error": error.as_json()}})
        else:
            self.say({"done": {"ref": ref, "step": table.match.number}})
            if verb == "take":  # what may be done there, now
                self._show(table)


def lateness(late_ms: deque[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum, in ms."""
    ordered = sorted(late_ms)
    p50, p95 = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95))
    return {"ticks": len(ordered), "p50_ms": round(p50, 3), "p95_ms": round(p95, 3), "max_ms": round(ordered[-1], 3)}


def open_table(wish: Mapping[str, Any]) -> tuple[Table, dict[str, Any]]:
    """The match that a message asks for, and what to say of it.

    Raises:
        CeruleaError: no such game, bot or agent, or an agent of another schema.
    """
    from cerulea.games.match import seats_of
    from cerulea.games.replay import replay_of, save_replay

    game = make_game(wish["game"], 1, **wish["options"])
    labels = seats_of(game, wish["players"])
    names = list(dict.fromkeys(labels))
    players = open_players(game, names, wish["folders"])
    seats = [names.index(label) for label in labels]
    _warm(LiveMatch(game, players, seats, wish["seed"]))
    match = LiveMatch(game, players, seats, wish["seed"])
    step_s = game.step_s or TURN_S

    def save(match: LiveMatch) -> dict[str, Any]:
        played_by = match.played_by(labels)
        replay = replay_of(game, played_by, match.seed, match.actions, winner=match.winner, cut=match.cut)
        save_replay(replay, Path(wish["replay"]))
        return {}

    table = Table(
        id=wish["id"],
        match=match,
        period_s=step_s / wish["speed"],
        turn_s=wish["turn_s"],
        save=save,
    )
    about = {
        "version": game.version,
        "seats": labels,
        "teams": list(game.teams),
        "limit": game.limit,
        "step_s": step_s,
        "heads": [{"name": head.name, "actions": list(head.actions)} for head in game.schema.heads],
    }
    return table, about


def _warm(match: LiveMatch) -> None:
    """Step once, so that what is compiled on first use is compiled before the first tick is due."""
    match.step()
    match.frame()
    match.legal(0)


def run(hall: Hall, inbox: queue.SimpleQueue[Mapping[str, Any] | None]) -> None:
    """Tick until the input ends."""
    while True:
        due = hall.next_due()
        wait_s = None if due is None else max(0.0, due - time.monotonic())
        try:
            message = inbox.get(timeout=wait_s) if wait_s != 0.0 else inbox.get_nowait()
        except queue.Empty:
            hall.tick(time.monotonic())
            continue
        if message is None:
            return
        hall.take_in(message)
        if (due := hall.next_due()) is not None and due <= time.monotonic():
            hall.tick(time.monotonic())


def _read(
    inbox: queue.SimpleQueue[Mapping[str, Any] | None], loads: queue.SimpleQueue[Any], shows: queue.SimpleQueue[Any]
) -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if "show" in message:
            shows.put((message["show"], time.monotonic() + message["show"]["within_s"]))
            continue
        inbox.put(message)  # first: the hall knows a match by the time that it is opened
        if "begin" in message:
            loads.put(message["begin"])
    inbox.put(None)


def _load(inbox: queue.SimpleQueue[Mapping[str, Any] | None], loads: queue.SimpleQueue[Any]) -> None:
    """Open games and agents, one after the other, beside the ticks."""
    while True:
        wish = loads.get()
        try:
            table, about = open_table(wish)
        except Exception as error:
            inbox.put({"opened": error, "id": wish["id"]})
        else:
            inbox.put({"opened": table, "about": about, "id": wish["id"]})


def _show(shows: queue.SimpleQueue[Any], say: Callable[[Any], None]) -> None:
    """Compute frames of replays, one after the other, for whoever still waits for them."""
    while True:
        wish, until = shows.get()
        if time.monotonic() < until:
            say(_shown(wish))


def _shown(wish: Mapping[str, Any]) -> dict[str, Any]:
    """Some frames of a replay."""
    from cerulea.games.replay import frames, read_replay

    try:
        shown = frames(read_replay(Path(wish["replay"])), first=wish["first"], count=wish["count"])
        told = [{"step": step, "frame": frame} for step, frame in enumerate(shown, start=wish["first"])]
        return {"shown": {"ref": wish["ref"], "frames": told}}
    except Exception as error:
        failed = error if isinstance(error, CeruleaError) else Failed(f"{type(error).__name__}: {str(error)[:300]}.")
        return {"refused": {"ref": wish["ref"], "error": failed.as_json()}}


def main() -> int:
    """Run live matches on standard input and output."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print must not stand between our lines
    writing = threading.Lock()

    def say(message: dict[str, Any]) -> None:
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with writing:
            out.write(line)

    sys.setswitchinterval(SWITCH_S)
    inbox: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
    loads: queue.SimpleQueue[Any] = queue.SimpleQueue()
    shows: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(inbox, loads, shows), daemon=True).start()
    threading.Thread(target=_load, args=(inbox, loads), daemon=True).start()
    threading.Thread(target=_show, args=(shows, say), daemon=True).start()
    say({"ready": {}})
    try:
        run(Hall(say), inbox)
    except BrokenPipeError:  # who started it is gone
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
