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
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from cerulea.compute.launcher import environment
from cerulea.core.errors import CeruleaError, EngineFailed, ModelLoading, ModelTooLarge, NotReady
from cerulea.core.memory import usable_memory
from cerulea.core.parent import PARENT
from cerulea.core.restoring import restore
from cerulea.flows.fitting import fitted
from cerulea.flows.loaded import Engine, Served, end
from cerulea.flows.model_folders import AGENT, Model, check_writes, find_model, find_registered
from cerulea.flows.platform import Platform
from cerulea.flows.serving import Gateway, Offer
from cerulea.people import Caller
from cerulea.serve.process import Options
from cerulea.serve.request import Delta, delta_from_json
from cerulea.serve.threads import engine_environment

log = logging.getLogger("cerulea.serving")

SERVED = "served"  # the alias of models that are loaded at the start and not unloaded
COMMAND = (sys.executable, "-m", "cerulea.serve.process")
LINE_BYTES = 256 << 20  # of one step's message: log probabilities of long prompts are large
LOAD_WAIT_S = 20.0  # how long a request waits for its model to be loaded before it is asked to come again
KNOWN_MS, KNOWN = 1000, 1024  # how long, and of how many labels, is remembered what they name
AGAIN_S = 2.0  # before a model that is to stay loaded is started again


class Host:
    """All models of one program. It belongs to the event loop that first uses it.

    Args:
        options: how models are run; the folder is filled in.
        memory_bytes: that all engines together may have; by default six tenths of what this process may use.
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
        self.memory_bytes = memory_bytes or usable_memory() * 6 // 10
        self._plan = plan or fitted
        self._engines: dict[str, Engine] = {}
        self._leaving: set[Engine] = set()  # whose processes end, and still hold their memory
        self._known: dict[tuple[str, tuple[str, ...] | None], tuple[Model, int]] = {}  # what labels name
        self._tasks: set[asyncio.Task[None]] = set()
        self.draining = False

    # -- models --------------------------------------------------------------------------------------

    async def open(self, caller: Caller, label: str) -> Served:
        """The model that a label names, loaded.

        Raises:
            NotFound: no such model for this caller, or it is retired; names the nearest.
            ModelLoading: it is still being loaded.
            NotReady: this program is about to stop.
            ModelTooLarge: it does not fit.
            Invalid, Failed: it cannot be loaded; says why.
        """
        if self.draining:
            raise NotReady("This server is about to stop.", retry_after_s=5)
        # Who sits at this machine has no key, and may name a folder of it.
        if (model := self._recall(caller, label)) is None:
            looked = self.platform.clock.elapsed()
            find = find_registered if caller.key else find_model
            model = await asyncio.to_thread(find, self.platform, label, teams=caller.teams)
            check_writes(model)
            if len(self._known) >= KNOWN:
                self._known.clear()
            self._known[label, caller.teams] = model, looked + KNOWN_MS
        engine = self._engine(model)
        assert engine.ready is not None
        try:
            await asyncio.wait_for(asyncio.shield(engine.ready), self.load_wait_s)
        except TimeoutError:
            raise ModelLoading(f"{model.label} is being loaded.", retry_after_s=5) from None
        if engine.served is None or engine.gone:
            raise NotReady(f"{model.label} was unloaded for another model.", retry_after_s=2)
        return engine.served

    def line(self, caller: Caller, label: str) -> Served | None:
        """The loaded model that a label named when it was last asked for; reads nothing and never waits."""
        model, _ = self._known.get((label, caller.teams), (None, 0))
        engine = None if model is None else self._engines.get(model.label)
        return engine.served if engine is not None and engine.loaded else None

    def _recall(self, caller: Caller, label: str) -> Model | None:
        """What a label named less than a second ago, for whoever has a key: others may name a folder."""
        model, until = self._known.get((label, caller.teams), (None, 0))
        return model if caller.key and until > self.platform.clock.elapsed() else None

    def models(self, caller: Caller) -> list[Offer]:
        """What the caller may ask for: every version that is not retired, and the aliases that name it."""
        aliases = {m.model: m.aliases for m in self.platform.registry.models(teams=caller.teams)}
        served = {label: engine.served for label, engine in self._engines.items() if engine.loaded}
        loaded = {label: one.context for label, one in served.items() if one is not None}
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

    def _engine(self, model: Model) -> Engine:
        """The engine of a model, started if there is none."""
        engine = self._engines.get(model.label)
        if engine is None or engine.gone:
            options, need = self._plan(model.folder, self.options, self.memory_bytes)
            self._make_room(model.label, need)
            engine = Engine(model=model, options=options, need_bytes=need, used=time.monotonic())
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
            self._keep(self._stop(self._engines.pop(min(idle)[1])))

    async def _run(self, engine: Engine) -> None:
        """Start the process and hand out what it says, until it ends."""
        assert engine.ready is not None
        options = {**engine.options.as_json(), "folder": str(engine.model.folder)}
        try:
            await self._memory_for(engine)
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
            await end(engine.process)
            engine.ended.set()
            self._leaving.discard(engine)

    def _hear(self, engine: Engine, message: dict[str, Any]) -> None:
        assert engine.ready is not None
        if "ready" in message:
            engine.served = Served(engine, message["ready"], engine.options)
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

    async def _memory_for(self, engine: Engine) -> None:
        """Return when what ends has given back the memory that this one needs."""
        while (leaving := [one for one in self._leaving if one is not engine]) and sum(
            one.need_bytes for one in (*self._engines.values(), *leaving)
        ) > self.memory_bytes:
            await asyncio.wait(
                [asyncio.ensure_future(one.ended.wait()) for one in leaving], return_when="FIRST_COMPLETED"
            )

    def _bury(self, engine: Engine) -> None:
        """Its process ends, or has ended: tell everybody who waits for it."""
        engine.gone = True
        self._leaving.add(engine)
        label = engine.model.label
        if self._engines.get(label) is engine:
            del self._engines[label]
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

    async def _stop(self, engine: Engine) -> None:
        engine.gone = True  # whoever has opened it already is asked to come again
        self._leaving.add(engine)
        if engine.process is None and engine.reader is not None:
            engine.reader.cancel()  # it waits for another one's memory
        await end(engine.process)
        await engine.ended.wait()


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
