"""Many requests at the same moment, timed byte by byte: what `benchmarks/serving.py --parts queue` asks with.

Measured: of each request, the time from its last byte's going into the kernel to the first byte of its answer's being
         seen here. The client is one process on the same cores, without an HTTP library: bytes out of lines that are
         open before the clock runs, and one look at all of them at a time.
"""

from __future__ import annotations

import json
import selectors
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What one request was answered."""

    status: int
    first_byte_s: float
    headers: str


def request_bytes(key: str, path: str, body: dict[str, Any]) -> bytes:
    """A POST as it goes over the line."""
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def burst(port: int, requests: Sequence[bytes]) -> tuple[list[Reply], float]:
    """All of them at once, each on a line of its own; their answers, and the seconds that sending all took."""
    lines = [_line(port) for _ in requests]
    sent: dict[socket.socket, float] = {}
    seen: dict[socket.socket, float] = {}
    with selectors.DefaultSelector() as ready:
        for line in lines:
            ready.register(line, selectors.EVENT_READ)

        def look(wait_s: float) -> None:
            for key, _ in ready.select(wait_s):
                seen[key.fileobj] = perf_counter()  # type: ignore[index]
                ready.unregister(key.fileobj)

        began = perf_counter()
        for line, data in zip(lines, requests, strict=True):
            line.sendall(data)
            sent[line] = perf_counter()
            look(0)
        took = perf_counter() - began
        while len(seen) < len(lines):
            look(60)
    replies = []
    for line in lines:
        status, headers = _answer(line)
        replies.append(Reply(status, seen[line] - sent[line], headers))
        line.close()
    return replies, took


class Line:
    """One line that stays open: requests after one another, each timed until its whole answer is here."""

    def __init__(self, port: int) -> None:
        self._line = _line(port)

    def ask(self, data: bytes) -> tuple[int, float]:
        """Status, and seconds from the first byte sent to the last one received."""
        began = perf_counter()
        self._line.sendall(data)
        status, _ = _answer(self._line)
        return status, perf_counter() - began

    def close(self) -> None:
        """Hang up."""
        self._line.close()


def _line(port: int) -> socket.socket:
    """An open line that the server has accepted: it has answered on it."""
    line = socket.create_connection(("127.0.0.1", port))
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line.sendall(b"GET /healthz HTTP/1.1\r\nHost: bench\r\n\r\n")
    _answer(line)
    return line


def _answer(line: socket.socket) -> tuple[int, str]:
    """Status and headers of a whole answer; its body is read to the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += line.recv(1 << 16) or _gone()
    head, _, body = data.partition(b"\r\n\r\n")
    headers = head.decode("latin-1").lower()
    length = int(headers.partition("content-length:")[2].split()[0])
    while len(body) < length:
        body += line.recv(1 << 16) or _gone()
    return int(headers.split()[1]), headers


def _gone() -> bytes:
    raise SystemExit("the server has hung up")
