"""Direct return while the address moves: gracefully, or because its holder froze. Connections live on."""

import contextlib
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.kernel.address import VirtualAddress
from gateway.kernel.announce import Announcer
from gateway.kernel.direct import Direct
from gateway.kernel.fence import Fence
from tests.support.direct_pool import NAME, PORT, Pool, channel, family_of, say, stream_to
from tests.support.netns import DEVICE, Segment

pytestmark = pytest.mark.kernel


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def pool(segment: Segment, tmp_path: Path, request: pytest.FixtureRequest) -> Pool:
    return Pool(segment, tmp_path, request.param)


@pytest.fixture
def pool4(segment: Segment, tmp_path: Path) -> Pool:
    return Pool(segment, tmp_path)


class Gateway:
    """What control does with the address, its fence and the rules, in its order."""

    def __init__(self, ip: str, bits: int, server: str) -> None:
        self.address = VirtualAddress(ip, bits, DEVICE)
        self.announcer = Announcer(ip, DEVICE)
        self.fence = Fence(ip, DEVICE, NAME)
        self.fence.install()
        self.direct = Direct(ip, DEVICE, NAME)
        self.direct.install()
        self.direct.switch(server)

    def take(self, lease_ms: int) -> None:
        self.fence.grant(lease_ms)
        self.direct.grant(lease_ms)
        self.address.add()
        self.announcer.burst(2)

    def resign(self) -> None:
        self.direct.linger()
        self.address.remove()
        self.fence.revoke()


def gateway(ip: str, bits: int, server: str, orders: socket.socket, done: socket.socket) -> None:
    """Carry out the orders, one byte each, until killed."""
    made = Gateway(ip, bits, server)
    acts: dict[bytes, Callable[[], Any]] = {b"t": lambda: made.take(60_000), b"r": made.resign}
    done.send(b"!")
    while True:  # until killed
        acts[orders.recv(1)]()
        done.send(b"!")


def counted_datagrams(ip: str, port: int, for_s: float) -> tuple[int, int]:
    """Send a numbered datagram every 2 ms, and return how many were sent and how many of the answers came."""
    with socket.socket(family_of(ip), socket.SOCK_DGRAM) as asking:
        asking.connect((ip, port))
        asking.setblocking(False)
        sent, answered, until = 0, 0, time.monotonic() + for_s
        while time.monotonic() < until + 0.3:
            if time.monotonic() < until:
                asking.send(b"?")
                sent += 1
            time.sleep(0.002)
            with contextlib.suppress(BlockingIOError):
                while asking.recv(100):
                    answered += 1
        return sent, answered


def streams(ip: str, for_s: float) -> int:
    """Ask on five connections for so long, and return how many answers came. Raises where one of them breaks."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(stream_to(ip)) for _ in range(5)]
        answers, until = 0, time.monotonic() + for_s
        while time.monotonic() < until:
            for stream in opened:
                assert say(stream).startswith("m1")
                answers += 1
            time.sleep(0.005)
        return answers


def test_a_graceful_move_breaks_no_connection_and_loses_no_packet(pool: Pool) -> None:
    orders: dict[str, Callable[[bytes], None]] = {}
    for name, host in (("gw1", pool.gw1), ("gw2", pool.gw2)):
        (ours, theirs), (answer, done) = channel(), channel()
        host.start(gateway, pool.ip, pool.bits, pool.m1.mac, theirs, done)
        answer.recv(1)

        def order(act: bytes, ours: socket.socket = ours, answer: socket.socket = answer) -> None:
            ours.send(act)
            answer.recv(1)

        orders[name] = order
    orders["gw1"](b"t")
    pool.wait_until_served()
    for old, new in (("gw1", "gw2"), ("gw2", "gw1")):
        open_streams = pool.client.start(streams, pool.ip, 2.0)
        datagrams = pool.client.start(counted_datagrams, pool.ip, PORT, 2.0)
        time.sleep(1.2)  # Linux ignores a second change of a MAC within its ARP locktime
        orders[old](b"r")
        orders[new](b"t")
        sent, answered = datagrams.result()
        assert sent == answered
        assert open_streams.result() > 100
        assert pool.client.neighbour(pool.ip) == {"gw1": pool.gw1, "gw2": pool.gw2}[new].mac


def hold(ip: str, server: str, ready: socket.socket) -> None:
    made = Gateway(ip, 32, server)
    made.take(400)
    ready.send(b"!")
    while made.fence.renew(400) and made.direct.extend(400):
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_frozen_gateway_forwards_nothing_after_its_lease_and_another_goes_on(
    pool4: Pool, number: signal.Signals
) -> None:
    ours, theirs = channel()
    holding = pool4.gw1.start(hold, pool4.ip, pool4.m1.mac, theirs)
    ours.recv(1)
    pool4.wait_until_served()
    open_stream = pool4.client.start(one_stream, pool4.ip, 4.0)
    sending = pool4.client.start(counted_datagrams, pool4.ip, PORT, 1.5)
    time.sleep(0.3)
    seen = pool4.gw1.capture()
    holding.signal(number)
    stopped = time.time()
    time.sleep(1.5)
    sending.result()
    sent_on = [frame.at_s for frame in seen.frames(outgoing=True) if frame.data[:6].hex(":") == pool4.m1.mac]
    assert sent_on, "it forwarded before"
    # The last one, not the latest: the kernel begins to stamp a little after it is asked to, and what it has not
    # stamped counts from when it is read.
    print(f"last frame {(sent_on[-1] - stopped) * 1000:.0f} ms after {number.name}")
    assert sent_on[-1] - stopped <= 0.42  # 20 ms for the clocks of this test itself
    pool4.hold(pool4.gw2, pool4.m1)
    assert open_stream.result() > 0


def one_stream(ip: str, for_s: float) -> int:
    """Say something every 50 ms, through a hole too; return how many answers came after a pause of 0.5 s or more."""
    with stream_to(ip, within_s=10) as stream:
        after_hole, holed, until = 0, False, time.monotonic() + for_s
        while time.monotonic() < until:
            before = time.monotonic()
            assert say(stream).startswith("m1")
            holed = holed or time.monotonic() - before > 0.5
            after_hole += holed
            time.sleep(0.05)
        return after_hole
