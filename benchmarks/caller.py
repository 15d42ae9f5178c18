"""One team's requests, one every two seconds, from a process of its own: what `serving.py --parts flood` measures with.

    python benchmarks/caller.py PORT < KEY

Measured: from a request's last byte's going into the kernel to its first event's being seen, milliseconds, a line each,
          until the standard input ends. The client is bytes on a socket, for one that shared its process with two
          hundred others would wait for those.
"""

from __future__ import annotations

import random
import select
import socket
import sys
from time import perf_counter

from burst import request_bytes

EVERY_S = 2.0


def first_event_ms(port: int, key: str, number: int) -> float:
    """A streamed completion of eight tokens, prompt of 64 random ids."""
    draw = random.Random(number)
    body = {"model": "bench", "prompt": [draw.randrange(50_000) for _ in range(64)], "max_tokens": 8, "stream": True}
    body |= {"temperature": 1.0, "seed": 1, "ignore_eos": True, "share_prefix": False}
    data, first = b"", 0.0
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.sendall(request_bytes(key, "/v1/completions", body))
        sent = perf_counter()
        while b"data: [DONE]" not in data:
            more = line.recv(1 << 16)
            data += more
            if not more:
                raise SystemExit(f"no answer: {data.decode()}")
            if not first and b"data: {" in data:
                first = perf_counter()
    return 1000 * (first - sent)


def main() -> None:
    """Ask until the input ends."""
    port, key = int(sys.argv[1]), sys.stdin.readline().strip()
    number, due = 0, perf_counter()
    while not select.select([sys.stdin], [], [], max(0.0, due - perf_counter()))[0]:
        print(first_event_ms(port, key, number), flush=True)
        number, due = number + 1, max(due + EVERY_S, perf_counter())


if __name__ == "__main__":
    main()
