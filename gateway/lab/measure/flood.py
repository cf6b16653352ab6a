"""What floods a pool's address, from a host of the lab: connections that say nothing, datagrams, idle connections.

Runs alone with the standard library: `flood.py KIND ADDRESS PORT RATE SECONDS OPEN`. Prints one JSON object at its end.
It aims at a lab's own address and nothing else: who runs it is in a network namespace without a way out.
"""

import contextlib
import json
import os
import random
import resource
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence

SILENT, DATAGRAMS, IDLE = "silent", "datagrams", "idle"
KINDS = (SILENT, DATAGRAMS, IDLE)
TICK_S = 0.01
TICKS_OWED_MAX = 20  # a machine that is too slow for the rate is not asked for all of it later
DESCRIPTORS = 100_000
DESCRIPTORS_OWN = 50  # of the program itself
EVENTS_MAX = 4_096
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a RST, which leaves no port behind in TIME_WAIT
PORTS = (1_024, 65_535)
UDP_HEADER = struct.Struct("!HHHH")
IPV6_CHECKSUM, CHECKSUM_PLACE = (
    7,
    6,
)  # <linux/in6.h>; the kernel fills it in: over IPv6 there must be one (RFC 8200 §8.1)
# A datagram as HTCondor takes it without its own header: a command that nobody has, and what would belong to it.
DATAGRAM = struct.pack("!q", 0x7F_FF_FF_01) + bytes(56)
# One whole message: SHARED_PORT_CONNECT to the collector, in which it then waits for a command (gateway/wire/cedar.py).
_CONNECT = struct.pack("!q", 75) + b"collector\0flood\0" + struct.pack("!qq", -1, 0)
HELLO = struct.pack("!BI", 1, len(_CONNECT)) + _CONNECT


class Connections:
    """Connections to one address, at most `most` of them open at a time: then the oldest is closed for the next one."""

    def __init__(self, address: str, port: int, hello: bytes, most: int, *, keep: bool) -> None:
        """`hello` is said by each as soon as it is open. `keep`: beyond `most` none is opened, and none closed."""
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._to = (address, port)
        self._hello = hello
        self._most = most
        self._keep = keep
        self._open: dict[int, socket.socket] = {}  # by age
        self._connecting: set[int] = set()
        self._epoll = select.epoll()
        self.counts = {"attempted": 0, "connected": 0, "ended_by_peer": 0, "failed": 0, "open_max": 0}

    def act(self) -> None:
        """Open one more."""
        if len(self._open) >= self._most:
            if self._keep:
                return
            self._close(next(iter(self._open)))
        self.counts["attempted"] += 1
        try:
            made = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError:
            self.counts["failed"] += 1
            return
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._open[made.fileno()] = made
        self._connecting.add(made.fileno())
        made.connect_ex(self._to)
        self._epoll.register(made.fileno(), select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET)
        self.counts["open_max"] = max(self.counts["open_max"], len(self._open))

    def tend(self) -> None:
        """Look after those that are open."""
        for number, events in self._epoll.poll(0, EVENTS_MAX):
            if number not in self._open:
                continue
            if events & (select.EPOLLERR | select.EPOLLHUP | select.EPOLLRDHUP):
                self.counts["failed" if number in self._connecting else "ended_by_peer"] += 1
                self._close(number)
            elif number in self._connecting and events & select.EPOLLOUT:
                self._connecting.discard(number)
                self.counts["connected"] += 1
                with contextlib.suppress(OSError):
                    self._open[number].send(self._hello)

    def _close(self, number: int) -> None:
        self._connecting.discard(number)
        self._open.pop(number).close()


class Datagrams:
    """Datagrams to one address, each from another port; answers are nobody's."""

    def __init__(self, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        if family is socket.AF_INET6:
            self._socket.setsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM, CHECKSUM_PLACE)
        self._to = (address, 0)
        self._port = port
        self.counts = {"attempted": 0, "failed": 0}

    def act(self) -> None:
        """Send one."""
        self.counts["attempted"] += 1
        header = UDP_HEADER.pack(random.randint(*PORTS), self._port, UDP_HEADER.size + len(DATAGRAM), 0)
        try:
            self._socket.sendto(header + DATAGRAM, self._to)
        except OSError:
            self.counts["failed"] += 1

    def tend(self) -> None:
        """Nothing is expected."""


def pace(act: Callable[[], None], tend: Callable[[], None], rate: int, seconds: float) -> float:
    """Call `act` so often a second, evenly, and `tend` in between; return how long it took."""
    most = int(rate * TICK_S * TICKS_OWED_MAX)
    began, done = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        due = int(passed * rate) - done
        for _ in range(min(due, most)):
            act()
        done += due
        tend()
        time.sleep(TICK_S)
    return time.monotonic() - began


def flood(kind: str, address: str, port: int, rate: int, seconds: float, most: int) -> dict[str, float]:
    """Flood, and return what came of it."""
    flooding: Connections | Datagrams
    match kind:
        case "silent":
            # A machine that grants fewer descriptors is flooded as fast all the same: the oldest make room.
            granted = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - DESCRIPTORS_OWN
            flooding = Connections(address, port, b"", min(most, granted), keep=False)
        case "idle":
            flooding = Connections(address, port, HELLO, most, keep=True)
        case _:
            flooding = Datagrams(address, port)
    took_s = pace(flooding.act, flooding.tend, rate, seconds)
    return {**flooding.counts, "seconds": round(took_s, 3), "per_second": round(flooding.counts["attempted"] / took_s)}


def main(arguments: Sequence[str]) -> int:
    """Run as a program."""
    kind, address, port, rate, seconds, most = arguments
    assert kind in KINDS, kind
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    for path in ("/proc/sys/net/ipv4/ip_local_port_range",):  # of this host's own network namespace, IPv6 as well
        with contextlib.suppress(OSError), open(path, "w") as file:
            file.write(f"{PORTS[0]} {PORTS[1]}")
    print(json.dumps(flood(kind, address, int(port), int(rate), float(seconds), int(most))), flush=True)
    os._exit(0)  # thousands of sockets: the kernel closes them faster than we


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
