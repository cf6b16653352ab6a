"""Scripts of what a client and a server do to each other: through each way it looks as it does without a gateway.

What is compared: the bytes that each side read at each of its steps, and how its connection ended. A script is played
step by step, so that what is read is not a matter of luck; only what is unread when a reset comes may be lost.
"""

import contextlib
import fcntl
import select
import socket
import struct
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.ways.composed import Pool
from tests.ways.hosts import DEADLINE_S, HOSTS, IP, PORT

pytestmark = pytest.mark.kernel

UNREAD_MAX = 48_000  # each way: fits into the window that any kernel gives to a new connection
PAUSE_S = 0.003

Step = tuple[str, str, int]

SIDES = st.sampled_from(["client", "server"])
# HTCondor's client speaks first, and the relay waits for it: so does every script.
FIRST = st.tuples(st.just("client"), st.just("send"), st.sampled_from([1, 2, 1_448, 20_000]))
STEPS = st.one_of(
    st.tuples(SIDES, st.just("send"), st.sampled_from([0, 1, 3, 1_448, 1_449, 9_000, 40_000])),
    st.tuples(SIDES, st.just("read"), st.sampled_from([1, 100, 5_000, 100_000])),
    st.tuples(SIDES, st.just("pour"), st.sampled_from([120_000, 400_000])),  # while the other side reads
    st.tuples(SIDES, st.just("shut"), st.just(0)),
    st.tuples(SIDES, st.just("pause"), st.just(0)),
)
LAST = st.tuples(SIDES, st.sampled_from(["shut", "reset", "close"]), st.just(0))


class Side:
    """One end of a connection: what it has read, step by step, and how it ended."""

    def __init__(self, sock: socket.socket, other_says: int) -> None:
        self.sock = sock
        self.sock.settimeout(DEADLINE_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.seed = other_says ^ 0xFF
        self.sent = 0
        self.read = 0
        self.shut = False
        self.seen: list[Any] = []

    def said(self, count: int) -> bytes:
        """Return the next bytes that this side says: each place of a stream has its own value."""
        first, last = self.sent // 4, (self.sent + count) // 4
        words = b"".join(struct.pack("!BBH", self.seed, n >> 16, n & 0xFFFF) for n in range(first, last + 1))
        return words[self.sent % 4 :][:count]


class Play:
    """One connection, and what is done on it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = Side(client, 0xAA), Side(server, 0x55)

    def other(self, side: Side) -> Side:
        return self.server if side is self.client else self.client

    def send(self, side: Side, count: int) -> None:
        unread = side.sent - self.other(side).read
        if side.shut or unread + count > UNREAD_MAX:
            return
        side.sock.sendall(side.said(count))
        side.sent += count
        self.settle(side)

    def settle(self, side: Side) -> None:
        """Wait until the other side's kernel has what `side` has sent: a close before that would be another one."""
        other = self.other(side)
        until = time.monotonic() + DEADLINE_S
        while side.sent - other.read > _queued(other.sock):
            assert time.monotonic() < until, "what was sent never arrived"
            time.sleep(0.0002)

    def pour(self, side: Side, count: int) -> None:
        if side.shut:
            return
        other = self.other(side)
        data = memoryview(side.said(count))
        side.sent += count
        side.sock.setblocking(False)
        while data:
            readable, writable, _ = select.select([other.sock], [side.sock], [], DEADLINE_S)
            assert readable or writable, "neither side gets on"
            if writable:
                data = data[side.sock.send(data[:100_000]) :]
            if readable:
                self._take(other, other.sock.recv(65_536))
        side.sock.settimeout(DEADLINE_S)
        self.take(other, count)

    def take(self, side: Side, count: int) -> None:
        """Read what the other side has sent, at most `count`; its end, where it has shut and all is read."""
        other = self.other(side)
        left = min(count, other.sent - side.read)
        if left == 0 and other.shut:
            side.seen.append(("end", side.sock.recv(1)))
        while left:
            chunk = side.sock.recv(min(left, 65_536))
            assert chunk, "an end before the end"
            self._take(side, chunk)
            left -= len(chunk)

    def _take(self, side: Side, chunk: bytes) -> None:
        """Note what was read as right or wrong: in how many pieces it came is nobody's business."""
        if not chunk:
            side.seen.append("an end in the midst")
            return
        other = self.other(side)
        now, other.sent = other.sent, side.read
        if chunk != other.said(len(chunk)):
            side.seen.append(f"other bytes at {side.read}")
        other.sent = now
        side.read += len(chunk)

    def close(self, side: Side) -> None:
        side.seen.append("closed")
        side.sock.close()

    def reset(self, side: Side) -> None:
        side.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close(side)

    def do_shut(self, side: Side) -> None:
        if not side.shut:
            side.shut = True
            side.sock.shutdown(socket.SHUT_WR)
            told = select.poll()
            told.register(self.other(side).sock, select.POLLRDHUP)
            assert told.poll(DEADLINE_S * 1000), "the end never arrived"

    def end(self, last: Step) -> None:
        """Do the last step; the other side then reads to the end, whatever that is."""
        who, what, _ = last
        side = self.client if who == "client" else self.server
        other = self.other(side)
        # A reset overtakes what the other side has not read yet, and so does a close with something unread.
        unread = other.sent > side.read
        if what == "reset" or (what == "close" and unread):
            self.take(other, side.sent)
        if what == "shut":
            self.do_shut(side)
            self._hear_out(other)
            self.do_shut(other)
            self._hear_out(side)
        else:
            (self.reset if what == "reset" else self.close)(side)
            self._hear_out(other)
            other.seen.append(_write_until_it_breaks(other.sock) if not other.shut else "shut")

    def _hear_out(self, side: Side) -> None:
        try:
            while chunk := side.sock.recv(65_536):
                self._take(side, chunk)
        except ConnectionResetError:
            side.seen.append("reset")
        else:
            side.seen.append("end")

    def outcome(self) -> list[Any]:
        return [(side.read, side.sent, side.seen) for side in (self.client, self.server)]


def _queued(sock: socket.socket) -> int:
    count: int = struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0]
    return count


def _write_until_it_breaks(sock: socket.socket) -> str:
    """Speak to somebody who has gone; that must be noticed."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        try:
            sock.send(b"?")
        except OSError:
            return "broken"
        time.sleep(0.002)
    return "never noticed"


@contextlib.contextmanager
def played(pool: Pool, listening: socket.socket, host: str, count: int) -> Iterator[Play]:
    """Give a connection on which the client has said `count` bytes."""
    with pool.open(pool.client) as client:
        client.settimeout(DEADLINE_S)
        client.connect((host, PORT))
        first = Side(client, 0xAA).said(count)
        client.sendall(first)
        server, _ = listening.accept()
        with server:
            play = Play(client, server)
            play.client.sent = count
            # A server that goes before it has heard anything has not been met: the relay gives its client to another.
            play.settle(play.client)
            yield play


def run(pool: Pool, listening: socket.socket, host: str, script: list[Step]) -> list[Any]:
    """Play a script on a connection to `host`; return what both sides have seen."""
    while select.select([listening], [], [], 0)[0]:
        listening.accept()[0].close()  # left by a run that failed
    (_, _, count), *steps, last = script
    with played(pool, listening, host, count) as play:
        for who, what, size in steps:
            side = play.client if who == "client" else play.server
            match what:
                case "send":
                    play.send(side, size)
                case "pour":
                    play.pour(side, size)
                case "read":
                    play.take(side, size)
                case "shut":
                    play.do_shut(side)
                case "pause":
                    time.sleep(PAUSE_S)
        play.end(last)
        return play.outcome()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=FIRST, steps=st.lists(STEPS, max_size=10), last=LAST)
@example(
    first=("client", "send", 20_000),
    steps=[("client", "shut", 0), ("server", "pour", 400_000), ("server", "read", 100_000)],
    last=("server", "close", 0),
)
@example(
    first=("client", "send", 1),
    steps=[("server", "send", 40_000), ("server", "shut", 0), ("client", "pour", 400_000)],
    last=("client", "reset", 0),
)
@example(first=("client", "send", 20_000), steps=[("server", "send", 9_000)], last=("server", "close", 0))
@example(first=("client", "send", 1), steps=[("server", "read", 1), ("client", "send", 1)], last=("server", "close", 0))
@example(first=("client", "send", 1), steps=[("server", "shut", 0), ("client", "shut", 0)], last=("client", "reset", 0))
def test_a_script_looks_as_it_does_without_a_gateway(pool: Pool, first: Step, steps: list[Step], last: Step) -> None:
    script = [first, *steps, last]
    with pool.listen("cm1") as listening:
        listening.settimeout(DEADLINE_S)
        straight = run(pool, listening, HOSTS["cm1"], script)
        assert run(pool, listening, IP, script) == straight
