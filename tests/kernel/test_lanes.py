"""Lanes: marked datagrams come to the second socket of a port, all others to the first. Real sockets on loopback."""

import errno
import json
import os
import socket
import subprocess
import sys

import pytest

from gateway.kernel import lanes
from gateway.kernel.lanes import open_second_lane

MARK = 0x80
MARKED = (b"\x81 answer", b"\x80", b"\xff" * 1_400)
UNMARKED = (b"\x01 beat", b"\x7f", b"\x00\x80", b"")
WAIT_S = 10  # for a datagram that has been sent over loopback: it is there at once

# Another process: takes the lanes by the numbers of their descriptors, says what is in each.
OTHER_PROCESS = """
import json, socket, sys
got = []
for number, count in zip(sys.argv[1::2], sys.argv[2::2]):
    lane = socket.socket(fileno=int(number))
    lane.settimeout(10)
    got.append([lane.recv(2_000).hex() for _ in range(int(count))])
print(json.dumps(got))
"""


def bound(host: str) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((host, 0))
    made.settimeout(WAIT_S)
    return made


def waiting_in(lane: socket.socket) -> list[bytes]:
    """Return what is in a lane now."""
    lane.setblocking(False)
    taken = []
    while True:  # ends when the lane is empty
        try:
            taken.append(lane.recv(2_000))
        except BlockingIOError:
            return taken


@pytest.fixture(params=["127.0.0.1", "::1"])
def first(request):
    with bound(request.param) as made:
        yield made


@pytest.fixture
def second(first):
    opened = open_second_lane(first, MARK)
    assert opened is not None, "this kernel has no lanes"
    with opened:
        yield opened


@pytest.fixture
def send(first):
    with socket.socket(first.family, socket.SOCK_DGRAM) as sender:
        yield lambda *datagrams: [sender.sendto(datagram, first.getsockname()) for datagram in datagrams]


def test_marked_datagrams_come_to_the_second_lane_and_only_there(first, second, send):
    send(*MARKED)
    assert waiting_in(second) == list(MARKED)
    assert waiting_in(first) == []


def test_unmarked_and_empty_datagrams_come_to_the_first_lane_and_only_there(first, second, send):
    send(*UNMARKED)
    assert waiting_in(first) == list(UNMARKED)
    assert waiting_in(second) == []


def test_who_sends_does_not_change_the_lane(first, second):
    """A group of sockets without the program would be chosen from by a hash of the sender's port."""
    for _ in range(20):
        with socket.socket(first.family, socket.SOCK_DGRAM) as sender:
            for datagram in (MARKED[0], UNMARKED[0]):
                sender.sendto(datagram, first.getsockname())
    assert waiting_in(second) == [MARKED[0]] * 20
    assert waiting_in(first) == [UNMARKED[0]] * 20


def test_the_second_lane_never_blocks(second):
    assert not second.getblocking()


def test_another_socket_is_still_refused_the_port(first, second):
    with socket.socket(first.family, socket.SOCK_DGRAM) as other:
        with pytest.raises(OSError, match="in use") as refused:
            other.bind(first.getsockname())
        assert refused.value.errno == errno.EADDRINUSE


def test_lanes_go_on_in_copies_when_the_originals_are_closed(first, second, send):
    copies = [socket.socket(fileno=os.dup(lane.fileno())) for lane in (first, second)]
    send(MARKED[0], UNMARKED[0])  # before: it is not lost
    to = first.getsockname()
    first.close()
    second.close()
    with copies[0], copies[1], socket.socket(copies[0].family, socket.SOCK_DGRAM) as sender:
        for datagram in (MARKED[1], UNMARKED[1]):
            sender.sendto(datagram, to)
        assert waiting_in(copies[0]) == [UNMARKED[0], UNMARKED[1]]
        assert waiting_in(copies[1]) == [MARKED[0], MARKED[1]]


def test_lanes_go_on_in_another_process(first, second):
    to = first.getsockname()
    command = [sys.executable, "-I", "-S", "-c", OTHER_PROCESS]
    for lane, expected in ((first, UNMARKED), (second, MARKED)):
        command += [str(lane.fileno()), str(len(expected))]
    with subprocess.Popen(
        command, pass_fds=(first.fileno(), second.fileno()), stdout=subprocess.PIPE, text=True
    ) as other:
        first.close()
        second.close()
        with socket.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for datagram in (*MARKED, *UNMARKED):
                sender.sendto(datagram, to)
        said, _ = other.communicate(timeout=30)
    got = [[bytes.fromhex(datagram) for datagram in lane] for lane in json.loads(said)]
    assert got == [list(UNMARKED), list(MARKED)]


def test_a_kernel_that_refuses_leaves_one_lane_that_gets_everything(first, send, monkeypatch):
    def refused(member, mark):
        raise OSError(errno.EINVAL, "no such option")

    monkeypatch.setattr(lanes, "_attach", refused)
    assert open_second_lane(first, MARK) is None
    send(*MARKED, *UNMARKED)
    assert waiting_in(first) == [*MARKED, *UNMARKED]


def test_a_kernel_that_refuses_leaves_a_port_that_nobody_can_share(first, monkeypatch):
    def refused(member, mark):
        raise OSError(errno.EINVAL, "no such option")

    monkeypatch.setattr(lanes, "_attach", refused)
    open_second_lane(first, MARK)
    with socket.socket(first.family, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(first.getsockname())
