"""Scripts of what a client and a server do to each other: through the relay it looks as it does without."""

import fcntl
import select
import socket
import struct
import termios
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from relay_harness import DEADLINE_S, listener, relay_by_hand

ENDS_OF_SCRIPT = ("reset", "close")
SIDES = st.sampled_from(["client", "server"])
SMALL = st.sampled_from([1, 2, 700, 5_000, 20_000])  # unread ones of a whole script fit into any socket's buffer
LARGE = st.sampled_from([150_000, 700_000, 2_500_000])

STEPS = st.one_of(
    st.tuples(SIDES, st.just("send"), SMALL),
    st.tuples(SIDES, st.just("stream"), LARGE),  # while the other side reads
    st.tuples(SIDES, st.just("read"), st.just(0)),  # what the other side has sent
    st.tuples(SIDES, st.just("shut"), st.just(0)),
)
# A server that resets before anybody has said a word has died with its connections unseen: that client is given to
# another one, which is not how it looks without a relay.
FIRST = st.tuples(SIDES, st.just("send"), SMALL)
LAST = st.tuples(SIDES, st.sampled_from(["shut", "reset", "close"]), st.just(0))


@pytest.fixture(scope="module")
def ports():
    """The places of a server: itself, behind a relay that hears the client first, and behind one that does not."""
    with relay_by_hand() as relay, socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(10)
        hears, hurries = listener(name="hears"), listener(name="hurries", hello_ms=0)
        relay.listen(hears, hurries)
        relay.switch(*server.getsockname())
        yield server, hears.port, hurries.port


class Side:
    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(DEADLINE_S)
        self.sent = 0
        self.heard = bytearray()
        self.shut = False
        self.end = "open"


class Play:
    """One connection, and what is done on it."""

    def __init__(self, client):
        self.client, self.server = Side(client), None

    def connected(self, server):
        self.server = Side(server)

    def other(self, side):
        return self.server if side is self.client else self.client

    def send(self, side, count):
        if not side.shut:
            side.sock.sendall(_said(side.sent, count))
            side.sent += count
            if self.server is not None:
                self.settle(side)

    def settle(self, side):
        """Wait until the other side's kernel has what `side` has sent."""
        other = self.other(side)
        until = time.monotonic() + DEADLINE_S
        while _queued(other.sock) + len(other.heard) < side.sent:
            assert time.monotonic() < until, "sent bytes never arrived"
            time.sleep(0.0005)

    def read(self, side):
        missing = self.other(side).sent - len(side.heard)
        while missing:
            chunk = side.sock.recv(min(missing, 65_536))
            assert chunk, "an end before the end"
            side.heard += chunk
            missing -= len(chunk)

    def stream(self, side, count):
        if side.shut:
            return
        other = self.other(side)
        data = memoryview(_said(side.sent, count))
        side.sent += count
        side.sock.setblocking(False)
        while data:
            readable, writable, _ = select.select([other.sock], [side.sock], [], DEADLINE_S)
            assert readable or writable, "stuck"
            if writable:
                data = data[side.sock.send(data[:100_000]) :]
            if readable:
                other.heard += other.sock.recv(65_536)
        side.sock.settimeout(DEADLINE_S)
        self.read(other)

    def shut(self, side):
        if not side.shut:
            side.shut = True
            side.sock.shutdown(socket.SHUT_WR)
            told = select.poll()
            told.register(self.other(side).sock, select.POLLRDHUP)
            assert told.poll(DEADLINE_S * 1000), "the end never arrived"

    def close(self, side):
        side.end = "closed"
        side.sock.close()

    def reset(self, side):
        side.end = "was reset by itself"
        side.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        side.sock.close()

    def read_to_the_end(self, side):
        if side.end != "open":
            return
        try:
            while chunk := side.sock.recv(65_536):
                side.heard += chunk
            side.end = "end"
        except ConnectionResetError:
            side.end = "reset"

    def outcome(self):
        return [(bytes(side.heard), side.end) for side in (self.client, self.server)]


def _said(start, count):
    """`count` bytes of a stream in which each place has its own value, as far as it matters here."""
    return b"".join(struct.pack("!I", number) for number in range(start // 4, (start + count) // 4 + 1))[
        start % 4 : start % 4 + count
    ]


def _queued(sock):
    return struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, b"\0" * 4))[0]


def run(server, port, steps):
    """Do `steps` on a connection to `port`; return what both sides have heard, and how it ended for them."""
    while select.select([server], [], [], 0)[0]:
        server.accept()[0].close()  # left by a run that failed
    client = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
    play = Play(client)
    steps = list(steps)
    if steps[0][:2] == ("client", "send"):  # a relay that hears the client first has no server before that
        play.send(play.client, steps.pop(0)[2])
    server.settimeout(DEADLINE_S)
    play.connected(server.accept()[0])
    if play.client.sent:
        play.settle(play.client)
    try:
        for who, what, count in steps:
            side = getattr(play, who)
            if what in ("send", "stream"):
                getattr(play, what)(side, count)
            else:
                getattr(play, what)(side)
        for side in (play.client, play.server):
            if side.end == "open":
                other = play.other(side)
                if other.end == "open":
                    play.shut(side)
        for side in (play.client, play.server):
            play.read_to_the_end(side)
    finally:
        for side in (play.client, play.server):
            side.sock.close()
    return play.outcome()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=FIRST, steps=st.lists(STEPS, max_size=6), last=LAST)
@example(
    first=("client", "send", 1),
    steps=[("server", "stream", 2_500_000), ("server", "shut", 0)],
    last=("client", "reset", 0),
)
@example(
    first=("client", "send", 700),
    steps=[("client", "shut", 0), ("server", "stream", 700_000)],
    last=("server", "close", 0),
)
@example(
    first=("server", "send", 20_000),
    steps=[("server", "shut", 0), ("client", "send", 20_000)],
    last=("client", "close", 0),
)
@example(first=("client", "send", 20_000), steps=[], last=("server", "close", 0))  # unread: the close is a reset
def test_a_script_looks_the_same_with_the_relay_as_without(ports, first, steps, last):
    server, hears, hurries = ports
    script = [first, *steps, last]
    direct = run(server, server.getsockname()[1], script)
    assert run(server, hurries, script) == direct
    if script[0][:2] == ("client", "send"):
        assert run(server, hears, script) == direct
