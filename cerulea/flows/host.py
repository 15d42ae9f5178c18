"""The models that this program serves: each loaded by a process of its own, on first use, within a memory budget.

In:      a caller and a label; for a loaded model Requests.
Out:     Served values, whose Flows yield the Deltas of one request.
Kept:    a model of another team is not there. One process an engine, started once however many wait for it; one that
         ends takes its requests with it, each of which is told, and the next request starts it anew. What would not
         fit makes room by unloading models that nobody uses, the one used longest ago first, or is refused.
Not here: money and text (`flows.complete`), the engine (`serve`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cerulea.compute.launcher import PARENT, environment
from cerulea.core.errors import CeruleaError, EngineFailed, ModelTooLarge, NotReady, QueueFull, restore
from cerulea.flows.fitting import fitted, physical_memory
from cerulea.flows.model_folders import AGENT, Model, check_writes, find_model, find_registered
from cerulea.flows.platform import Platform
from cerulea.flows.serving import Gateway, Offer
from cerulea.people import Caller
from cerulea.serve.process import Options
from cerulea.serve.request import Delta, Request, delta_from_json
from cerulea.serve.threads import engine_environment
from cerulea.text.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    pass

log = logging.getLogger("cerulea.serving")

SERVED = "served"  # the alias of models that are loaded at the start and not unloaded
COMMAND = (sys.executable, "-m", "cerulea.serve.process")
LINE_BYTES = 256 << 20  # of one step's message: log probabilities of long prompts are large
LOAD_WAIT_S = 20.0  # how long a request waits for its model to be loaded before it is asked to come again
AGAIN_S = 2.0  # before a model that is to stay loaded is started again
STOP_S = 10.0  # until a process that was asked to end is killed


class Flow:
    """One request in an engine, as its deltas come."""

    def __init__(self, engine: _Engine, request: Request) -> None:
        self._engine, self.id = engine, request.id
        self.prompt_tokens = len(request.prompt)
        self._deltas: asyncio.Queue[Delta] = asyncio.Queue()
        self.begun = False

    async def __aiter__(self) -> AsyncIterator[Delta]:
        while True:
            delta = await self._deltas.get()
            if delta.finish == "error" and delta.detail.startswith("{"):
                raise restore(json.loads(delta.detail))  # it was refused, before anything was computed
            yield delta
            if delta.finish:
                return

    def lease(self, tokens: int) -> None:
        """Let it write this many tokens in all."""
        self._engine.tell({"lease": [self.id, tokens]})

    def abort(self) -> None:
        """End it; its last delta still comes."""
        self._engine.tell({"abort": self.id})

    def put(self, delta: Delta) -> None:
        """A delta has come."""
        self.begun = True
        self._deltas.put_nowait(delta)


@dataclass(slots=True, kw_only=True)
class _Engine:
    """A process with one model, and what is asked of it."""

    model: Model
    options: Options
    need_bytes: int
    pinned: bool = False
    served: Served | None = None
    process: asyncio.subprocess.Process | None = None
    ready: asyncio.Future[dict[str, Any]] | None = None
    flows: dict[str, Flow] = field(default_factory=dict)
    waiting_tokens: int = 0
    used: float = 0.0
    stats: dict[str, Any] = field(default_factory=dict)
    reader: asyncio.Task[None] | None = None
    gone: bool = False

    @property
    def loaded(self) -> bool:
        """Whether it answers."""
        return self.ready is not None and self.ready.done() and not self.ready.exception() and not self.gone

    def tell(self, message: dict[str, Any]) -> None:
        """Send it a message; one that has ended hears nothing."""
        if self.gone or self.process is None or self.process.stdin is None or self.process.stdin.is_closing():
            return
        self.process.stdin.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")


class Served:
    """A loaded model."""

    def __init__(self, engine: _Engine, info: dict[str, Any], bounds: Options) -> None:
        self._engine, self._bounds, self.info = engine, bounds, info
        model = engine.model
        self.label, self.name, self.version = model.label, model.name, model.version
        self.folder = model.folder
        self.context, self.vocab = int(info["context"]), int(info["vocab"])

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        return load_tokenizer(self.folder)

    @cached_property
    def template(self) -> Any:
        """Its chat template, or None."""
        from cerulea.text.chat import load_template

        return load_template(self.folder)

    def admit(self, sequences: int, prompt_tokens: int) -> None:
        """Nothing where so much more would be taken now; asked once for each request, whatever it consists of.

        Raises:
            QueueFull: too much waits already.
            NotReady: its process has ended.
        """
        engine = self._engine
        if engine.gone:
            raise NotReady(f"The engine of {self.label} has ended and is started again.", retry_after_s=2)
        most = self._bounds.most_running + self._bounds.most_waiting
        # A request of more than may wait at all is taken when nothing else is there.
        if engine.flows and len(engine.flows) + sequences > most:
            raise QueueFull(
                f"{len(engine.flows):,} sequences run and wait for {self.label}; the most is {most:,}.",
                retry_after_s=self._patience(),
            )
        most_tokens = self._bounds.most_waiting_tokens or 64 * self.context
        if engine.waiting_tokens and engine.waiting_tokens + prompt_tokens > most_tokens:
            raise QueueFull(
                f"{engine.waiting_tokens:,} prompt tokens wait for {self.label}; the most is {most_tokens:,}.",
                retry_after_s=self._patience(),
            )

    def submit(self, request: Request) -> Flow:
        """Hand a request to the engine.

        Raises:
            NotReady: its process has ended.
        """
        engine = self._engine
        if engine.gone:
            raise NotReady(f"The engine of {self.label} has ended and is started again.", retry_after_s=2)
        engine.used = time.monotonic()
        flow = Flow(engine, request)
        engine.flows[request.id] = flow
        engine.waiting_tokens += flow.prompt_tokens
        engine.tell({"submit": request.as_json()})
        return flow

    def _patience(self) -> float:
        """Seconds after which there is room, roughly: the line moves by a row's worth each 64 steps."""
        step_s = float(self._engine.stats.get("step_ms", 20.0)) / 1000
        return max(1.0, 64 * step_s)


class Host:
    """All models of one program. It belongs to the event loop that first uses it.

    Args:
        options: how models are run; the folder is filled in.
        memory_bytes: that all engines together may have.
        plan: how to run the model of a folder within so many bytes, and the bytes that it needs then.
        command: the program of an engine.
        load_wait_s: how long a request waits for its model before it is asked to come again.
    """

    def __init__(
        self,
        platform: Platform,
        options: Options | None = None,
        *,
        memory_bytes: int = 0,
        plan: Callable[[Path, Options, int], tuple[Options, int]] | None = None,
        command: Sequence[str] = COMMAND,
        load_wait_s: float = LOAD_WAIT_S,
    ) -> None:
        self.platform, self.command, self.load_wait_s = platform, command, load_wait_s
        self.options = options or Options(folder="")
        self.memory_bytes = memory_bytes or physical_memory() * 6 // 10
        self._plan = plan or fitted
        self._engines: dict[str, _Engine] = {}
        self._served: dict[str, Served] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.draining = False

    # -- models --------------------------------------------------------------------------------------

    async def open(self, caller: Caller, label: str) -> Served:
        """The model that a label names, loaded.

        Raises:
            NotFound: no such model for this caller, or it is retired; names the nearest.
            NotReady: it is still being loaded, or this program is about to stop.
            ModelTooLarge: it does not fit.
            Invalid, Failed: it cannot be loaded; says why.
        """
        if self.draining:
            raise NotReady("This server is about to stop.", retry_after_s=5)
        # Who sits at this machine has no key, and may name a folder of it.
        find = find_registered if caller.key else find_model
        model = await asyncio.to_thread(find, self.platform, label, teams=caller.teams)
        check_writes(model)
        engine = self._engine(model)
        assert engine.ready is not None
        try:
            await asyncio.wait_for(asyncio.shield(engine.ready), self.load_wait_s)
        except TimeoutError:
            raise NotReady(f"{model.label} is being loaded.", retry_after_s=5) from None
        if engine.served is None or engine.gone:
            raise NotReady(f"{model.label} was unloaded for another model.", retry_after_s=2)
        return engine.served

    def models(self, caller: Caller) -> list[Offer]:
        """What the caller may ask for: every version that is not retired, and the aliases that name it."""
        aliases = {m.model: m.aliases for m in self.platform.registry.models(teams=caller.teams)}
        loaded = {label: self._served[label].context for label, _ in self.loaded()}
        return [
            Offer(
                label=version.label,
                team=version.team,
                created_at=version.created_at,
                aliases=tuple(name for name, number in aliases[version.model].items() if number == version.version),
                context=loaded.get(version.label, 0) or int(version.card.get("context", 0) or 0),
                loaded=version.label in loaded,
            )
            for version in self.platform.registry.versions(teams=caller.teams)
            if AGENT not in version.manifest
        ]

    def loaded(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Labels of loaded models, and their engines' counters."""
        return [(label, engine.stats) for label, engine in self._engines.items() if engine.loaded]

    async def preload(self) -> list[str]:
        """Load every model with the alias `served`; labels of those that could not be, with why."""
        versions = await asyncio.to_thread(self._with_alias)
        troubles = []
        for label in versions:
            try:
                model = await asyncio.to_thread(find_registered, self.platform, label)
                engine = self._engine(model)
                engine.pinned = True
                assert engine.ready is not None
                await asyncio.shield(engine.ready)
            except Exception as error:  # one model's trouble is not another one's
                troubles.append(f"{label}: {error}")
        return troubles

    async def unload(self, label: str) -> bool:
        """End the process of a model; whether there was one."""
        engine = self._engines.pop(label, None)
        self._served.pop(label, None)
        if engine is None:
            return False
        await self._stop(engine)
        return True

    async def close(self, grace_s: float = 0.0) -> None:
        """Take nothing new, wait for what runs, and end every process."""
        self.draining = True
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and any(engine.flows for engine in self._engines.values()):
            await asyncio.sleep(0.05)
        await asyncio.gather(*(self.unload(label) for label in list(self._engines)))
        await asyncio.gather(*self._tasks)

    def _with_alias(self) -> list[str]:
        return [f"{m.model}:{SERVED}" for m in self.platform.registry.models() if SERVED in m.aliases]

    # -- processes -----------------------------------------------------------------------------------

    def _engine(self, model: Model) -> _Engine:
        """The engine of a model, started if there is none."""
        engine = self._engines.get(model.label)
        if engine is None or engine.gone:
            options, need = self._plan(model.folder, self.options, self.memory_bytes)
            self._make_room(model.label, need)
            engine = _Engine(model=model, options=options, need_bytes=need, used=time.monotonic())
            engine.ready = asyncio.get_running_loop().create_future()
            # Somebody may have stopped waiting by the time that it fails.
            engine.ready.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._engines[model.label] = engine
            engine.reader = self._keep(self._run(engine))
        engine.used = time.monotonic()
        return engine

    def _make_room(self, label: str, need: int) -> None:
        """Unload what nobody uses until `need` bytes fit.

        Raises:
            ModelTooLarge: they cannot.
        """
        if need > self.memory_bytes:
            raise ModelTooLarge(
                f"{label} needs {need / 1e9:.1f} GB; models here may have {self.memory_bytes / 1e9:.1f} GB together.",
                fix="Serve it with fewer rows (CERULEA_SERVE_ROWS), or raise CERULEA_SERVE_MEMORY_GB.",
            )
        while sum(e.need_bytes for name, e in self._engines.items() if name != label) + need > self.memory_bytes:
            idle = [(e.used, name) for name, e in self._engines.items() if not e.flows and not e.pinned and e.loaded]
            if not idle:
                raise NotReady(
                    f"{label} needs {need / 1e9:.1f} GB, and other models are in use.",
                    why=f"Models here may have {self.memory_bytes / 1e9:.1f} GB together.",
                    retry_after_s=10,
                )
            engine = self._engines.pop(min(idle)[1])
            engine.gone = True  # whoever has opened it already is asked to come again
            self._served.pop(engine.model.label, None)
            self._keep(self._stop(engine))

    async def _run(self, engine: _Engine) -> None:
        """Start the process and hand out what it says, until it ends."""
        assert engine.ready is not None
        options = {**engine.options.as_json(), "folder": str(engine.model.folder)}
        try:
            process = engine.process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LINE_BYTES,
                env={**environment(), **engine_environment(engine.options.threads), PARENT: str(os.getpid())},
                start_new_session=True,
            )
            assert process.stdout is not None
            engine.tell(options)
            while line := await process.stdout.readline():
                self._hear(engine, json.loads(line))
        except Exception as error:
            log.exception("the engine of %s", engine.model.label)
            if not engine.ready.done():
                engine.ready.set_exception(EngineFailed(f"The engine could not be started: {error}."))
        finally:
            self._bury(engine)
            await _end(engine.process)

    def _hear(self, engine: _Engine, message: dict[str, Any]) -> None:
        assert engine.ready is not None
        if "ready" in message:
            engine.served = self._served[engine.model.label] = Served(engine, message["ready"], engine.options)
            engine.ready.set_result(message["ready"])
        elif "failed" in message:
            engine.ready.set_exception(restore(message["failed"]))
        else:
            engine.stats = message["stats"]
            for values in message["deltas"]:
                delta = delta_from_json(values)
                flow = engine.flows.pop(delta.id, None) if delta.finish else engine.flows.get(delta.id)
                if flow is not None:
                    if not flow.begun:
                        engine.waiting_tokens -= flow.prompt_tokens
                    flow.put(delta)

    def _bury(self, engine: _Engine) -> None:
        """Its process has ended: tell everybody who waits for it."""
        engine.gone = True
        label = engine.model.label
        if self._engines.get(label) is engine:
            del self._engines[label]
            self._served.pop(label, None)
        assert engine.ready is not None
        if not engine.ready.done():
            engine.ready.set_exception(EngineFailed(f"The engine of {label} ended while it was being started."))
        for flow in engine.flows.values():
            flow.put(Delta(id=flow.id, finish="error", detail=f"The engine of {label} has ended."))
        engine.flows.clear()
        if engine.pinned and engine.served is not None and not self.draining:
            self._keep(self._start_again(engine.model))  # it was loaded before: it is not its folder's fault

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Let something go on; the loop itself holds tasks weakly."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _start_again(self, model: Model) -> None:
        """A model that is to stay loaded has lost its process."""
        await asyncio.sleep(AGAIN_S)
        if not self.draining:
            with contextlib.suppress(CeruleaError):
                self._engine(model).pinned = True

    async def _stop(self, engine: _Engine) -> None:
        await _end(engine.process)
        if engine.reader is not None:
            await engine.reader


async def _end(process: asyncio.subprocess.Process | None) -> None:
    """End a process by ending its input; one that does not listen is killed."""
    if process is None:
        return
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def gateway_of(platform: Platform, *, load_wait_s: float = LOAD_WAIT_S) -> Gateway:
    """What requests to this platform's models go through, as the settings say; nothing is loaded yet.

    Args:
        load_wait_s: how long a request waits for its model before it is asked to come again.
    """
    settings = platform.settings
    options = Options(
        folder="",
        weights=settings.serve_weights,
        most_running=settings.serve_rows,
        most_waiting=settings.serve_queue,
        threads=settings.threads,
        device=settings.device,
        extra={"engine": settings.serve_engine},
    )
    memory_bytes = settings.serve_memory_gb * 10**9
    return Gateway(platform=platform, host=Host(platform, options, memory_bytes=memory_bytes, load_wait_s=load_wait_s))
