"""What one heartbeat costs, step by step: microseconds of encode, seal, open, decode and of the core's `step`.

Rule: nothing is judged here; the best of several rounds is printed, for the rest is what the machine did meanwhile.
"""

import argparse
import itertools
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.control.votes import VoteFiles
from gateway.core.events import DeadlineReached, MessageReceived, StandingChanged
from gateway.core.node import ElectionPlan, Node
from gateway.core.timing import Timing
from gateway.wire.heartbeat import decode_untrusted, encode
from gateway.wire.messages import Ack, Pulse, Standing
from gateway.wire.seal import Keyring, Seal
from tests.bench import results

ROUNDS = 7
CALLS = 2_000
SLEEPS = 300
VOTES = 50  # they wait for the disk
NAMES = ("gw1", "gw2", "cm1", "cm2", "cm3")
PLANS = (ElectionPlan("pool-vip", ("gw1", "gw2")), ElectionPlan("managers", ("cm1", "cm2", "cm3")))
INSTANCES = ("0123456789abcdef", "123456789abcdef0", "23456789abcdef01")


def best_us(call: Callable[[], Any], calls: int = CALLS) -> float:
    """Return microseconds a call, the best of the rounds."""
    found = []
    for _ in range(ROUNDS):
        begun = time.perf_counter_ns()
        for _ in range(calls):
            call()
        found.append((time.perf_counter_ns() - begun) / calls / 1000)
    return min(found)


def measure() -> dict[str, dict[str, Any]]:
    """Return microseconds by step."""
    pulse = a_pulse()
    acknowledgement = Ack(pulse.sent_ms, pulse.leads)
    one, other = two_seals()
    data, short = encode(pulse), encode(acknowledgement)
    sealed = [one.seal("cm1", data) for _ in range(ROUNDS * CALLS)]
    unopened = iter(sealed)  # a datagram opens once
    steps: dict[str, Callable[[], Any]] = {
        "encode a pulse": lambda: encode(pulse),
        "encode an ack": lambda: encode(acknowledgement),
        "decode a pulse": lambda: decode_untrusted(data),
        "decode an ack": lambda: decode_untrusted(short),
        "open a pulse": lambda: other.open_untrusted(next(unopened)),
        "send 250 bytes": a_sender(),
        **core_steps(),
    }
    steps["seal a pulse"] = lambda: one.seal("cm1", data)  # last: it ends what can be opened
    table = {name: {"us": best_us(call)} for name, call in steps.items()}
    table |= {name: {"us": found} for name, found in one_heartbeat_us().items()}
    with tempfile.TemporaryDirectory() as folder:
        votes, terms = VoteFiles(Path(folder)), itertools.count(1)
        table["write a vote (fdatasync)"] = {"us": best_us(lambda: votes.write("vip", next(terms), "gw1"), VOTES)}
        table["read a vote"] = {"us": best_us(lambda: votes.read("vip"), VOTES)}
    return table


def a_pulse() -> Pulse:
    """Return the pulse of the matchmaker's leader: the longest of a usual cluster."""
    standing = Standing("managers", True, True, 7, 123456, INSTANCES[0])
    return Pulse(123456789, (("managers", 7),), (standing,), INSTANCES)


def one_heartbeat_us() -> dict[str, float]:
    """Return CPU microseconds to open, decode, take and answer one pulse: at once after another, and after a sleep.

    The sleep is what makes a heartbeat dear: others have the CPU's caches meanwhile. Things done in one wake-up are
    cheap, and wake-ups are not.
    """
    one, other = two_seals()
    node = a_node("cm1", 1_000_000)
    data, short = encode(a_pulse()), encode(Ack(123456789, (("managers", 7),)))
    found: dict[str, list[float]] = {"a heartbeat, hot": [], "a heartbeat after 6 ms of sleep": []}
    for name, took in found.items():
        for _ in range(SLEEPS):
            sealed = one.seal("cm1", data)
            if "sleep" in name:
                time.sleep(0.006)
            begun = time.thread_time_ns()
            opened = other.open_untrusted(sealed)
            assert opened.payload is not None
            node.step(MessageReceived("gw1", decode_untrusted(opened.payload)), 1_000_001)
            other.seal("gw1", short)
            took.append((time.thread_time_ns() - begun) / 1000)
    return {name: statistics.median(took) for name, took in found.items()}


def two_seals() -> tuple[Seal, Seal]:
    """Return the seals of gw1 and cm1, each of which knows the other."""
    keyring = Keyring({1: bytes(range(32))}, 1)
    one = Seal("pool", keyring, "gw1", b"1" * 16, NAMES)
    other = Seal("pool", keyring, "cm1", b"2" * 16, NAMES)
    for _ in range(3):  # greeting, hello, hello
        for here, there, (me, peer) in ((one, other, ("gw1", "cm1")), (other, one, ("cm1", "gw1"))):
            if there.open_untrusted(here.seal(peer, b"x")).reply_to is not None:
                here.open_untrusted(there.hello(me))
    assert other.open_untrusted(one.seal("cm1", b"x")).payload == b"x", "the two do not know each other"
    return one, other


def a_sender() -> Callable[[], Any]:
    """Return a call that sends a datagram to a socket of this host that nobody reads."""
    ends = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for end in ends:
        end.bind(("127.0.0.1", 0))
    target, data = ends[1].getsockname(), bytes(250)
    return lambda: (ends[0].sendto(data, target), ends[1].recv(4096))


def core_steps() -> dict[str, Callable[[], Any]]:
    """Return calls of `Node.step` on a follower, and on the leader of both elections."""
    now_ms = 1_000_000
    follower = a_node("cm2", now_ms)
    pulse = a_pulse()
    follower.step(MessageReceived("cm1", pulse), now_ms + 1)
    return {
        "step: deadline not due": lambda: follower.step(DeadlineReached(), now_ms + 1),
        "step: a leader's pulse": lambda: follower.step(MessageReceived("cm1", pulse), now_ms + 1),
        "step: an ack": lambda: follower.step(MessageReceived("cm1", Ack(now_ms, pulse.leads)), now_ms + 1),
        "deadline_ms": follower.deadline_ms,
    }


def a_node(me: str, now_ms: int) -> Node:
    """Return a node of five that has just started."""
    timing = Timing(heartbeat_ms=20, lease_ms=120)
    node = Node(me=me, voters=NAMES, plans=PLANS, timing=timing, saved={}, now_ms=now_ms)
    node.step(StandingChanged(Standing("managers", True, True, 7, 1, INSTANCES[1]), ""), now_ms)
    return node


def main() -> None:
    parser = argparse.ArgumentParser(description="measure the path of one heartbeat")
    results.add_arguments(parser)
    results.report("path", measure(), parser.parse_args())


if __name__ == "__main__":
    main()
