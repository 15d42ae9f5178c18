"""Games, live matches and replays; a match's websocket, over which a browser watches it and plays in it.

Kept:    what a person says is answered, each message by `done` or by `refused` with a code; nothing that is refused
         changes the match. A line ends with its match, or when the key that opened it has ended: it is asked again
         every few seconds. The places that a person had are given back when his line ends. While a person has a place,
         none of his lines to that match shows what its side does not see.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, WebSocket, WebSocketDisconnect
from starlette.requests import HTTPConnection

from cerulea.api import match_schema as schema
from cerulea.api.asking import Needs, Opened, caller_of, key_header
from cerulea.api.schema import NAME
from cerulea.core.clock import new_id
from cerulea.core.errors import CeruleaError
from cerulea.core.files import json_line
from cerulea.flows.feeds import Feed
from cerulea.flows.fog import fogged
from cerulea.flows.play import Matches
from cerulea.flows.replays import find_replay, list_replays
from cerulea.games.catalog import GAMES
from cerulea.people import Caller

router = APIRouter(prefix="/api", tags=["matches"])
PROTOCOL = "cerulea.v1"  # of the websocket; a browser, which cannot send headers, offers its key as a second one
RECHECK_S = 3.0  # between looks at the key of an open line
MOST_WAITING = 32  # messages of one line that are not answered yet
Reads = Annotated[Caller, Depends(Needs("matches:read"))]
Plays = Annotated[Caller, Depends(Needs("matches:write"))]
MatchId = Annotated[str, Path(pattern=NAME, description="A match's id.", examples=["match-7f3a91c2d0b4"])]
ReplayId = Annotated[str, Path(pattern=NAME, description="A replay's id.", examples=["match-7f3a91c2d0b4"])]


Key = Annotated[str | None, key_header("A repeat with the same key gets the match that the first one began.")]
StopKey = Annotated[
    str | None, key_header("Taken as by every write; a match that has ended stays as it is, whatever the key.")
]


async def _matches(request: Request) -> Matches:
    matches: Matches = request.app.state.matches
    return matches


Hall = Annotated[Matches, Depends(_matches)]


@router.get("/games", response_model=schema.GameList)
def list_games(caller: Reads) -> schema.GameList:
    """What can be played, beside every game of Gymnasium and PettingZoo that is installed."""
    return schema.GameList(items=[schema.GameOut(name=name, about=about) for name, about in GAMES.items()])


@router.post("/matches", status_code=201, response_model=schema.MatchOut)
def begin_match(body: schema.NewMatch, caller: Plays, matches: Hall, idempotency_key: Key = None) -> schema.MatchOut:
    """Begin a match. It goes on by itself; who watches or plays opens its websocket, GET /api/matches/{match}/live."""
    return schema.match_out(matches.begin(caller, body.wish(), key=idempotency_key))


@router.get("/matches", response_model=schema.MatchList)
def list_matches(caller: Reads, matches: Hall) -> schema.MatchList:
    """Matches that go on, and those that have ended since the server came up; the newest first."""
    return schema.MatchList(items=[schema.match_out(match) for match in matches.newest(caller)])


@router.get("/matches/{match}", response_model=schema.MatchOut)
def show_match(match: MatchId, caller: Reads, matches: Hall) -> schema.MatchOut:
    """One match."""
    return schema.match_out(matches.get(caller, match))


@router.post("/matches/{match}/stop", response_model=schema.MatchOut)
def stop_match(match: MatchId, caller: Plays, matches: Hall, idempotency_key: StopKey = None) -> schema.MatchOut:
    """End a match where it stands; its replay is kept. A second stop changes nothing, with a key or without."""
    return schema.match_out(matches.stop(caller, match))


@router.get("/replays", response_model=schema.ReplayList)
def list_kept(
    caller: Reads, platform: Opened, limit: Annotated[int, Query(ge=1, le=500, description="Most items.")] = 50
) -> schema.ReplayList:
    """Matches that were kept, the newest first."""
    found = list_replays(platform.settings, caller.teams, limit=limit)
    return schema.ReplayList(items=[schema.replay_out(kept) for kept in found])


@router.get("/replays/{replay}", response_model=schema.ReplayOut)
def show_replay(replay: ReplayId, caller: Reads, platform: Opened) -> schema.ReplayOut:
    """One replay: what was played, by whom, and how it ended."""
    return schema.replay_out(find_replay(platform.settings, replay, caller.teams))


@router.get("/replays/{replay}/frames", response_model=schema.FrameList)
def show_frames(
    replay: ReplayId,
    caller: Reads,
    platform: Opened,
    matches: Hall,
    first: Annotated[int, Query(ge=0, le=1_000_000, description="The first step.")] = 0,
    count: Annotated[int, Query(ge=1, le=500, description="Most frames.")] = 100,
) -> schema.FrameList:
    """What was to be seen, step after step: the match is played again from its actions."""
    kept = find_replay(platform.settings, replay, caller.teams)
    frames = matches.frames(str(kept.path), first, count)
    return schema.FrameList(items=[schema.FrameOut(**frame) for frame in frames])


# -- the websocket ------------------------------------------------------------------------------------


@router.websocket("/matches/{match}/live")
async def live(socket: WebSocket, match: str) -> None:
    """A match as it goes on: `match` first, then a `frame` for each step, `ended` at last."""
    matches: Matches = socket.app.state.matches
    offered = [part.strip() for part in socket.headers.get("sec-websocket-protocol", "").split(",")]
    await socket.accept(PROTOCOL if PROTOCOL in offered else None)
    try:
        caller = await _caller(socket, offered)
        feed = matches.watch(caller, match, hand := new_id("hand"))
    except CeruleaError as error:
        await _refuse(socket, error)
        return
    line = _Line(socket, matches, match, offered, hand)
    try:
        await line.talk(feed)
    finally:
        matches.unwatch(match, feed)
        for seat in line.seats:
            matches.act("leave", match, seat, line.hand)


async def _caller(socket: HTTPConnection, offered: list[str], scope: str = "matches:read") -> Caller:
    key = next((part for part in offered if part.startswith("ck_")), None)
    caller = await caller_of(socket, key)
    caller.need(scope)
    return caller


async def _refuse(socket: WebSocket, error: CeruleaError) -> None:
    await socket.send_text(json_line({"type": "refused", "ref": "", **error.as_json()}))
    await socket.close(1008, error.code)


class _Line:
    """One open websocket."""

    def __init__(self, socket: WebSocket, matches: Matches, match: str, offered: list[str], hand: str) -> None:
        self.socket, self.matches, self.match, self.offered = socket, matches, match, offered
        self.hand = hand  # whoever has two lines has two pairs of hands
        self.seats: set[int] = set()
        self.waiting = 0

    async def talk(self, feed: Feed) -> None:
        """Until the match or the line ends."""
        tasks = [asyncio.create_task(work) for work in (self._show(feed), self._listen(), self._ask_again())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, (WebSocketDisconnect, RuntimeError)):
                raise error

    async def _show(self, feed: Feed) -> None:
        teams: tuple[int, ...] = ()
        while True:
            event = await feed.next()
            if feed.broken:
                await self.socket.close(1008, "too slow")
                return
            if event["type"] == "frame":
                own, frame = self.matches.hands(self.match, feed), event["frame"]
                for team in {teams[int(seat)] for hand in own for seat in event["legal"].get(hand, {})}:
                    frame = fogged(frame, team)
                await self._say({**event, "frame": frame, "legal": event["legal"].get(self.hand, {})})
                continue
            teams = event["match"].teams
            await self._say({"type": event["type"], "match": schema.match_out(event["match"]).model_dump()})
            if event["match"].over:
                await self.socket.close(1000)
                return

    async def _listen(self) -> None:
        while True:
            message = await self.socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1000))
            try:
                said = schema.read_said(message.get("text"))
            except CeruleaError as error:
                await self._say({"type": "refused", "ref": "", **error.as_json()})
                continue
            if said.type == "take":
                await self._try(said.ref, lambda said=said: self._take(said))  # type: ignore[misc]
            elif said.type == "leave":
                await self._try(said.ref, lambda said=said: self._leave(said))  # type: ignore[misc]
            else:
                work = self._ask("order", said.seat, self.hand, said.step, said.action)
                await self._try(said.ref, lambda work=work: work)  # type: ignore[misc]

    async def _try(self, ref: str, work: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        try:
            done = await work()
        except CeruleaError as error:
            await self._say({"type": "refused", "ref": ref, **error.as_json()})
        else:
            await self._say({"type": "done", "ref": ref, "step": done["step"]})

    async def _take(self, said: schema.Take) -> dict[str, Any]:
        await _caller(self.socket, self.offered, "matches:write")
        fresh = said.seat not in self.seats
        self.seats.add(said.seat)  # now: should the line end before the answer, the place is given back
        try:
            return await self._ask("take", said.seat, self.hand)
        except CeruleaError:
            if fresh:
                self.seats.discard(said.seat)
            raise

    async def _leave(self, said: schema.Leave) -> dict[str, Any]:
        done = await self._ask("leave", said.seat, self.hand)
        self.seats.discard(said.seat)
        return done

    async def _ask(self, verb: str, *values: Any) -> dict[str, Any]:
        return await asyncio.wrap_future(self.matches.act(verb, self.match, *values))

    async def _ask_again(self) -> None:
        while True:
            await asyncio.sleep(RECHECK_S)
            try:
                caller = await _caller(self.socket, self.offered)
                self.matches.get(caller, self.match)
            except CeruleaError as error:
                with contextlib.suppress(RuntimeError):
                    await _refuse(self.socket, error)
                return

    async def _say(self, message: dict[str, Any]) -> None:
        await self.socket.send_text(json_line(message))
