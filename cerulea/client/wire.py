"""How requests get to a platform: over HTTP, or into the same program without a socket.

In:      method, path, values.
Out:     the answer's values; errors as the classes they were.
Kept:    every write carries an Idempotency-Key, so that one whose answer was lost is sent again and done once. What was
         answered is never sent again. httpx, FastAPI and the platform are imported when the first request is made.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
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
        from cerulea.flows.platform import open_platform

        settings.home.mkdir(parents=True, exist_ok=True)
        platform = self._held.enter_context(open_platform(settings))
        transport = httpx.ASGITransport(create_app(platform, trusted=platform.people.caller()))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api", daemon=True)
        self._thread.start()
        self._held.callback(self._end_loop)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://here")
        self._held.callback(lambda: self._wait(self._http.aclose()))

    def send(
        self, method: str, path: str, *, json: Any, params: Any, headers: dict[str, str], timeout_s: float
    ) -> httpx.Response:
        """One request, handled here."""
        return self._wait(self._http.request(method, path, json=json, params=params, headers=headers, timeout=None))

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


def path_part(text: str) -> str:
    """One segment of a path, whatever somebody typed."""
    return quote(text, safe="@:") or "%20"


class Requests:
    """Requests over a wire that is opened when it is first needed."""

    def __init__(self, open_wire: Callable[[], Wire], *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._open, self._sleep = open_wire, sleep
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
        return self._ask("POST", path, body, None, {}, TIMEOUT_S)

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
                self._sleep(BACKOFF_S * 2**attempt)
                continue
            if answer.is_error:
                raise error_of(answer.status_code, answer.content)
            return json.loads(answer.content)
        raise AssertionError("unreachable")
