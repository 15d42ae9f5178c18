"""A way to an HTTP server that now and then fails, for tests of what is built on it."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading

VERBS = (b"GET ", b"PUT ", b"POST ", b"HEAD ", b"DELETE ")
FAULT = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Flaky:
    """A proxy on a loopback port; of the requests, `share` meet an error 500, a reset, or an answer cut short."""

    def __init__(self, host: str, port: int, *, share: float, seed: int = 1) -> None:
        self.address, self.share = (host, port), share
        self.requests: list[str] = []  # first lines
        self.faults = 0
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Flaky:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone does not wake who waits in accept.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for side in self._sockets:
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for side in self._sockets:
            side.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.create_connection(self.address)
        self._sockets += [client, server]
        cut: list[int] = []  # bytes of the answer that still pass
        back = threading.Thread(target=self._answer, args=(server, client, cut), daemon=True)
        back.start()
        with contextlib.suppress(OSError):
            while chunk := client.recv(1 << 16):
                if chunk.startswith(VERBS):
                    self.requests.append(chunk.split(b"\r\n", 1)[0].decode())
                    fate = self._fate()
                    if fate == "error":
                        client.sendall(FAULT)
                        break
                    if fate == "reset":
                        _reset(client)
                        break
                    if fate == "cut":
                        cut.append(self._random.randrange(1, 1 << 20))
                server.sendall(chunk)
        _end(server)
        back.join()
        _end(client)

    def _answer(self, server: socket.socket, client: socket.socket, cut: list[int]) -> None:
        with contextlib.suppress(OSError):
            while chunk := server.recv(1 << 16):
                if cut:
                    chunk, cut[0] = chunk[: cut[0]], cut[0] - len(chunk)
                    client.sendall(chunk)
                    if cut[0] <= 0:
                        _reset(client)
                        return
                else:
                    client.sendall(chunk)
        _end(client)

    def _fate(self) -> str:
        if self._random.random() >= self.share:
            return ""
        self.faults += 1
        return self._random.choice(["error", "reset", "cut"])


def _reset(side: socket.socket) -> None:
    """Hang up without a word."""
    with contextlib.suppress(OSError):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        side.shutdown(socket.SHUT_RDWR)


def _end(side: socket.socket) -> None:
    with contextlib.suppress(OSError):
        side.shutdown(socket.SHUT_RDWR)
