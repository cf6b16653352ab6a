"""The address as a client sees it: ICMP echo and ARP every few milliseconds, every answer written down.

Runs alone, with the standard library only, inside a host's network namespace: `python3 probe.py ADDRESS DEVICE FILE|-`.
Any holder's kernel answers both questions, so what is measured is the address, not the service behind it. Each probe
has a number, and a gap is counted from unanswered numbers: a probe process that was late itself makes no gap.
"""

import contextlib
import itertools
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence

PERIOD_S = 0.005
# A probe with no answer after this is lost. Kernels on one bridge answer in 0.1 ms; the rest is a busy machine.
ANSWER_S_MAX = 0.25
ECHO_REQUEST, ECHO_REPLY = 8, 0
ETH_ARP = 0x0806
ARP_REQUEST, ARP_REPLY = 1, 2
_ECHO = struct.Struct("!BBHHHQ")  # type, code, checksum, identifier, sequence; the payload is the probe's whole number
_ARP = struct.Struct("!6s6sHHHBBH6s4s6s4s")
_BROADCAST = b"\xff" * 6


def checksum(data: bytes) -> int:
    """Return the internet checksum (RFC 1071) of `data`, which has an even length."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return int(~(total + (total >> 16)) & 0xFFFF)


def echo_request(identifier: int, number: int) -> bytes:
    """Return an ICMP echo request that carries `number`."""
    blank = _ECHO.pack(ECHO_REQUEST, 0, 0, identifier, number & 0xFFFF, number)
    return _ECHO.pack(ECHO_REQUEST, 0, checksum(blank), identifier, number & 0xFFFF, number)


def echo_answer(packet: bytes, identifier: int) -> int | None:
    """Return the number that an IPv4 packet answers; None for everything that is no answer to us."""
    body = packet[(packet[0] & 0x0F) * 4 :] if packet else b""
    if len(body) < _ECHO.size:
        return None
    kind, _, _, whose, _, number = _ECHO.unpack_from(body)
    return int(number) if kind == ECHO_REPLY and whose == identifier else None


def arp_request(mac: bytes, own_ip: bytes, ip: bytes) -> bytes:
    """Return the ethernet frame that asks who has `ip`."""
    return _ARP.pack(_BROADCAST, mac, ETH_ARP, 1, 0x0800, 6, 4, ARP_REQUEST, mac, own_ip, bytes(6), ip)


def arp_answer(frame: bytes, mac: bytes, ip: bytes) -> str | None:
    """Return the MAC that answers *our* question for `ip`; announcements, which nobody asked for, are none."""
    if len(frame) < _ARP.size:
        return None
    target, _, ethertype, _, _, _, _, operation, who, address, _, _ = _ARP.unpack_from(frame)
    if ethertype != ETH_ARP or operation != ARP_REPLY or address != ip or target != mac:
        return None
    return str(who.hex(":"))


class Probe:
    """Sends, receives and writes lines: `s NUMBER TIME`, `e NUMBER TIME`, `a NUMBER MAC TIME` (unix seconds)."""

    def __init__(self, address: str, device: str, path: str) -> None:
        self.address = address
        self.ip = socket.inet_aton(address)
        self.identifier = os.getpid() & 0xFFFF
        self.icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self.arp = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_ARP))
        self.arp.bind((device, ETH_ARP))
        self.mac = self.arp.getsockname()[4]
        self.own_ip = _own_ip(address)
        self.number = 0
        for sock in (self.icmp, self.arp):
            sock.setblocking(False)
        self.out = sys.stdout if path == "-" else open(path, "w")  # noqa: SIM115 (lives as long as the process)
        self.running = True

    def send(self) -> None:
        """Send one echo and one ARP request. An error of the network (no route, no neighbour) is a lost probe."""
        self.number += 1
        self.out.write(f"s {self.number} {time.time():.6f}\n")
        for sock, packet, to in (
            (self.arp, arp_request(self.mac, self.own_ip, self.ip), None),
            (self.icmp, echo_request(self.identifier, self.number), (self.address, 0)),
        ):
            try:
                sock.send(packet) if to is None else sock.sendto(packet, to)
            except OSError:
                continue

    def receive(self, sock: socket.socket) -> None:
        """Take all packets that wait on `sock`; ends when it would block."""
        while True:
            try:
                packet = sock.recv(2048)
            except OSError:
                return
            now = time.time()
            if sock is self.icmp:
                if (answered := echo_answer(packet, self.identifier)) is not None:
                    self.out.write(f"e {answered} {now:.6f}\n")
            elif (mac := arp_answer(packet, self.mac, self.ip)) is not None:
                self.out.write(f"a {self.number} {mac} {now:.6f}\n")

    def run(self) -> None:
        """Probe until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        poll = select.poll()
        for sock in (self.icmp, self.arp):
            poll.register(sock, select.POLLIN)
        by_descriptor = {sock.fileno(): sock for sock in (self.icmp, self.arp)}
        due = flushed = time.monotonic()
        while self.running:  # ends by a signal
            now = time.monotonic()
            if now >= due:
                self.send()
                due = max(due + PERIOD_S, now)
            if now - flushed > 1.0:
                self.out.flush()
                flushed = now
            for descriptor, _ in poll.poll(max(0.0, (due - time.monotonic()) * 1000)):
                self.receive(by_descriptor[descriptor])
        self.out.flush()

    def _stop(self, *_: object) -> None:
        self.running = False


def _own_ip(address: str) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, 9))  # connecting a datagram socket sends nothing
        return socket.inet_aton(sock.getsockname()[0])


def read(text: str) -> tuple[dict[int, float], dict[int, float], dict[int, set[str]]]:
    """Return (sent, echoed, owners) of a probe's file: times by number, MACs that answered by number."""
    sent: dict[int, float] = {}
    echoed: dict[int, float] = {}
    owners: dict[int, set[str]] = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[0] == "s":
            sent[int(fields[1])] = float(fields[2])
        elif len(fields) == 3 and fields[0] == "e":
            echoed[int(fields[1])] = float(fields[2])
        elif len(fields) == 4 and fields[0] == "a":
            owners.setdefault(int(fields[1]), set()).add(fields[2])
    return sent, echoed, owners


def blackout_ms(text: str, since: float, until: float) -> float | None:
    """Return the longest time without an answered echo in [since, until); 0.0 when none was lost, null without probes.

    From the last answered probe before a run of lost ones to the first answered after it: an upper bound, wide by
    one period on each side. A run that lasts to the end of the file counts to the last probe that was sent.
    """
    sent, echoed, _ = read(text)
    numbers = [number for number in sorted(sent) if since <= sent[number] < until]
    if not numbers:
        return None
    longest, last_good, losing = 0.0, sent[numbers[0]], False
    for number in numbers:
        if number in echoed and echoed[number] - sent[number] <= ANSWER_S_MAX:
            if losing:
                longest = max(longest, sent[number] - last_good)
            last_good, losing = sent[number], False
        else:
            losing = True
    if losing:
        longest = max(longest, sent[numbers[-1]] - last_good)
    return longest * 1000.0


def two_owner_ms(text: str, since: float, until: float) -> float | None:
    """Return how long two machines answered for the address: for each question that two MACs answered, its period.

    None without any ARP answer at all: then nothing is known.
    """
    sent, _, owners = read(text)
    numbers = [number for number in sorted(sent) if since <= sent[number] < until]
    if not any(number in owners for number in numbers):
        return None
    total = 0.0
    for number, following in itertools.pairwise(numbers):
        if len(owners.get(number, ())) > 1:
            total += sent[following] - sent[number]
    return total * 1000.0


def late_ms(text: str, since: float, until: float) -> float | None:
    """Return the longest time that the probe itself let pass between two probes: how far its figures can be trusted."""
    sent, _, _ = read(text)
    times = [sent[number] for number in sorted(sent) if since <= sent[number] < until]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    return max(gaps) * 1000.0 if gaps else None


def main(argv: Sequence[str]) -> int:
    """Probe ADDRESS on DEVICE into FILE until a signal comes."""
    if len(argv) != 3:
        sys.stderr.write("usage: probe.py ADDRESS DEVICE FILE\n")
        return 2
    # A probe that waits for a processor sees nothing: it goes first, where it may. It needs some 2 % of one.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    Probe(*argv).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
