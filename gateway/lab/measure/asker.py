"""A client that asks the pool's collector for its instance, one connection after the other, and holds some open.

Runs alone in a lab's host, with the standard library and the question's bytes: `asker.py ADDRESS PORT HELD STOP-FILE`.
Prints "asking" once the held connections stand, and one JSON object when the file has appeared: what became of all.
"""

import contextlib
import json
import os
import socket
import sys
import time
from collections import Counter

from gateway.wire.cedar import query_instance_request

PERIOD_S = 0.01
ANSWER_S_MAX = 20.0  # HTCondor's own tools give up after that
SECOND_BYTES = 13  # of the question's second message; before it the connection is open, and waits for a command
ANSWER_BYTES = 21


class Held:
    """A connection with half of a question said."""

    def __init__(self, where: tuple[str, int], question: bytes) -> None:
        self._rest = question[-SECOND_BYTES:]
        self._socket = socket.create_connection(where, ANSWER_S_MAX)
        self._socket.sendall(question[:-SECOND_BYTES])

    def finish(self) -> str:
        """Say the rest; return "answered", or what happened instead."""
        with self._socket:
            try:
                self._socket.sendall(self._rest)
                return _answer(self._socket)
            except OSError as error:
                return _word(error)


def ask(where: tuple[str, int], question: bytes) -> str:
    """Ask once, over a connection of its own; return "answered", or what happened instead."""
    try:
        with socket.create_connection(where, ANSWER_S_MAX) as asking:
            asking.sendall(question)
            return _answer(asking)
    except OSError as error:
        return _word(error)


def _answer(asking: socket.socket) -> str:
    data = b""
    while len(data) < ANSWER_BYTES:  # ends with the answer, the connection, or the time
        more = asking.recv(100)
        if not more:
            return "closed"
        data += more
    return "answered"


def _word(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, TimeoutError):
        return "timeout"
    return "reset" if isinstance(error, ConnectionResetError | BrokenPipeError) else f"error {error.errno}"


def main(argv: list[str]) -> int:
    """Ask until the file is there."""
    address, port, held_count, stop = argv
    where, question = (address, int(port)), query_instance_request()
    held = [Held(where, question) for _ in range(int(held_count))]
    print("asking", flush=True)
    outcomes: Counter[str] = Counter()
    slowest_s = 0.0
    while not os.path.exists(stop):  # ends with the measurement
        began = time.monotonic()
        outcomes[ask(where, question)] += 1
        slowest_s = max(slowest_s, time.monotonic() - began)
        time.sleep(PERIOD_S)
    with contextlib.suppress(OSError):
        os.unlink(stop)
    ends = Counter(one.finish() for one in held)
    print(json.dumps({"asked": outcomes, "held": ends, "slowest_ms": round(slowest_s * 1000)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
