"""How requests get to a platform: over HTTP, or into the same program without a socket.

In:      method, path, values.
Out:     the answer's values; errors as the classes they were.
Kept:    every write carries an Idempotency-Key, so that one whose answer was lost is sent again and done once. What was
         answered is never sent again. httpx, FastAPI and the platform are imported when the first request is made.
"""

from __future__ import annotations

import json
import queue
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import quote

from cerulea.client.problems import error_of
from cerulea.core.errors import Invalid, Unreachable

if TYPE_CHECKING:
    import httpx

    from cerulea.core.settings import Settings

T = TypeVar("T")
TIMEOUT_S = 30.0
TRIES = 4
BACKOFF_S = 0.2  # before the first retry; doubles
ACCEPT = "text/event-stream, application/problem+json"  # refusals as the platform's own problems
QUIET_S = 60.0  # a stream that says nothing for this long is broken: comments come every ten seconds


class Wire(Protocol):
    """A way to a platform."""

    streams: bool  # whether a line can be kept open

    def send(
        self, method: str, path: str, *, json: Any, params: Any, headers: dict[str, str], timeout_s: float
    ) -> httpx.Response:
        """One request, once.

        Raises:
            Unreachable: no answer came.
        """
        ...

    def events(self, path: str, body: Any) -> AbstractContextManager[Iterator[str]]:
        """The lines of an answer that is written while it is sent; leaving early hangs up.

        Raises:
            Unreachable: no answer came, or it broke.
        """
        ...

    def close(self) -> None:
        """Let go of what is open."""
        ...


class HttpWire:
    """A platform elsewhere."""

    streams = True

    def __init__(self, url: str, key: str) -> None:
        import httpx

        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._http = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT_S, trust_env=False)
            right = self._http.base_url.scheme in ("http", "https") and self._http.base_url.host
        except (httpx.InvalidURL, UnicodeEncodeError):
            right = ""
        if not right:
            raise Invalid(f"{url[:100]!r} is no address of a platform.", fix="Write it like http://127.0.0.1:7777.")

    def send(
        self, method: str, path: str, *, json: Any, params: Any, headers: dict[str, str], timeout_s: float
    ) -> httpx.Response:
        """One request over HTTP."""
        import httpx

        try:
            return self._http.request(method, path, json=json, params=params, headers=headers, timeout=timeout_s)
        except httpx.HTTPError as error:
            raise self._gone(error) from error

    @contextmanager
    def stream(self, path: str, headers: dict[str, str]) -> Iterator[Iterator[str]]:
        """The lines of a stream.

        Raises:
            Unreachable: it broke; go on with Last-Event-ID.
        """
        import httpx

        try:
            with self._http.stream(
                "GET", path, headers=headers, timeout=httpx.Timeout(TIMEOUT_S, read=QUIET_S)
            ) as answer:
                if answer.is_error:
                    answer.read()
                    raise error_of(answer.status_code, answer.content)
                yield answer.iter_lines()
        except httpx.HTTPError as error:
            raise self._gone(error) from error

    @contextmanager
    def events(self, path: str, body: Any) -> Iterator[Iterator[str]]:
        """The lines of an answer that is written while it is sent."""
        import httpx

        timeout = httpx.Timeout(TIMEOUT_S, read=QUIET_S)
        try:
            with self._http.stream("POST", path, json=body, headers={"Accept": ACCEPT}, timeout=timeout) as answer:
                if answer.is_error:
                    answer.read()
                    raise error_of(answer.status_code, answer.content)
                yield answer.iter_lines()
        except httpx.HTTPError as error:
            raise self._gone(error) from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _gone(self, error: Exception) -> Unreachable:
        return Unreachable(
            f"The platform at {self.url} does not answer: {str(error) or type(error).__name__}.",
            fix="Is `cerulea up` running there? Check --url or CERULEA_URL.",
        )


class InnerWire:
    """The platform of this home, opened in this process: the same API, and no server."""

    streams = False

    def __init__(self, settings: Settings) -> None:
        self._held = ExitStack()
        try:
            self._open(settings)
        except BaseException:
            self._held.close()
            raise

    def _open(self, settings: Settings) -> None:
        import asyncio

        import httpx

        from cerulea.api.app import create_app
        from cerulea.flows.host import gateway_of
        from cerulea.flows.platform import open_platform

        settings.home.mkdir(parents=True, exist_ok=True)
        platform = self._held.enter_context(open_platform(settings))
        self._app = create_app(
            platform, trusted=platform.people.caller(), gateway=gateway_of(platform, load_wait_s=600.0)
        )
        transport = httpx.ASGITransport(self._app)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api", daemon=True)
        self._thread.start()
        self._held.callback(self._end_loop)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://here")
        self._held.callback(lambda: self._wait(self._http.aclose()))
        self._held.callback(lambda: self._wait(self._app.state.gateway.close()))
        self._held.callback(lambda: self._app.state.matches.close())

    def send(
        self, method: str, path: str, *, json: Any, params: Any, headers: dict[str, str], timeout_s: float
    ) -> httpx.Response:
        """One request, handled here."""
        return self._wait(self._http.request(method, path, json=json, params=params, headers=headers, timeout=None))

    @contextmanager
    def events(self, path: str, body: Any) -> Iterator[Iterator[str]]:
        """The lines of an answer, while the application writes it: what httpx's transport would collect first."""
        import asyncio

        call = _Call(path, json.dumps(body).encode())
        running = asyncio.run_coroutine_threadsafe(call.run(self._app), self._loop)
        try:
            yield call.lines()
        finally:
            self._loop.call_soon_threadsafe(call.hang_up)
            running.result()

    def close(self) -> None:
        """Close the platform."""
        self._held.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        import asyncio

        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end_loop(self) -> None:
        self._wait(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Call:
    """One POST to an application of this process, whose answer is read by another thread as it is written."""

    def __init__(self, path: str, body: bytes) -> None:
        import asyncio

        self._path, self._body = path, body
        self._read = False
        self._gone = asyncio.Event()
        self._parts: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._status = 0

    async def run(self, app: Any) -> None:
        """Let the application answer."""
        names = {"accept": ACCEPT, "content-type": "application/json", "content-length": str(len(self._body))}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self._path,
            "raw_path": self._path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"here"), *((k.encode(), v.encode()) for k, v in names.items())],
            "client": None,
            "server": ("here", 80),
            "state": {},
        }
        try:
            await app(scope, self._receive, self._send)
        finally:
            self._parts.put(None)

    def hang_up(self) -> None:
        """Nobody reads on."""
        self._gone.set()

    def lines(self) -> Iterator[str]:
        """Lines, as they come.

        Raises:
            CeruleaError: the answer is a refusal.
        """
        left = b""
        while (part := self._parts.get()) is not None:
            left += part
            if self._status < 400:
                *whole, left = left.split(b"\n")
                yield from (line.decode() for line in whole)
        if self._status >= 400:
            raise error_of(self._status, left)

    async def _receive(self) -> dict[str, Any]:
        if not self._read:
            self._read = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif message["type"] == "http.response.body":
            self._parts.put(message.get("body", b""))


def path_part(text: str) -> str:
    """One segment of a path, whatever somebody typed."""
    return quote(text, safe="@:") or "%20"


class Requests:
    """Requests over a wire that is opened when it is first needed."""

    def __init__(self, open_wire: Callable[[], Wire], *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._open, self.sleep = open_wire, sleep
        self._wire: Wire | None = None
        self._lock = threading.Lock()

    @property
    def wire(self) -> Wire:
        """The wire, opened."""
        with self._lock:
            if self._wire is None:
                self._wire = self._open()
            return self._wire

    def get(self, path: str, *, timeout_s: float = TIMEOUT_S, **params: Any) -> Any:
        """Read; `params` that are None are left out."""
        given = {name: value for name, value in params.items() if value is not None}
        return self._ask("GET", path, None, given, {}, timeout_s)

    def write(self, method: str, path: str, body: dict[str, Any] | None = None, *, key: str | None = None) -> Any:
        """Write, once however often it must be sent."""
        return self._ask(method, path, body, None, {"Idempotency-Key": key or str(uuid.uuid4())}, TIMEOUT_S)

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """A question with a body, which writes nothing."""
        return self._ask("POST", path, body, None, {"Accept": f"application/json, {ACCEPT}"}, TIMEOUT_S)

    def events(self, path: str, body: dict[str, Any]) -> Iterator[Any]:
        """Values of server-sent events, as they come; sent once, for what was begun cannot be begun again.

        Raises:
            CeruleaError: it was refused, or an event tells of a failure.
        """
        with self.wire.events(path, body) as lines:
            for line in lines:
                if not line.startswith("data:") or (text := line[5:].strip()) == "[DONE]":
                    continue
                value = json.loads(text)
                if isinstance(value, dict) and value.get("error"):
                    raise error_of(500, text.encode())
                yield value

    def close(self) -> None:
        """Let go of what is open."""
        with self._lock:
            wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def _ask(self, method: str, path: str, body: Any, params: Any, headers: dict[str, str], timeout_s: float) -> Any:
        for attempt in range(TRIES):
            try:
                answer = self.wire.send(method, path, json=body, params=params, headers=headers, timeout_s=timeout_s)
            except Unreachable:
                if attempt == TRIES - 1:
                    raise
                self.sleep(BACKOFF_S * 2**attempt)
                continue
            if answer.is_error:
                raise error_of(answer.status_code, answer.content)
            return json.loads(answer.content)
        raise AssertionError("unreachable")
