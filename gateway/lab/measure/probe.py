"""The address as a client sees it: a TCP SYN and an ARP request every few milliseconds, every answer written down.

Runs alone, with the standard library only, in a host's network namespace: `probe.py ADDRESS PORT DEVICE FILE|-`.
Only a listening socket answers SYN with SYN-ACK; an address whose owner has died with its kernel alive answers ICMP for
ever, and RST, and is no use to anybody. No connection comes of it: the kernel here, which knows of no such socket,
resets each, so that no program over there wakes up. Each probe has a number, and a gap is counted from unanswered
numbers: a probe process that was late itself makes no gap.
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
SYN, SYN_ACK = 0x02, 0x12
# Below the ephemeral ports (32768 on): never a port of a real connection. So many probes take 40 s to come round.
PORTS = range(20_000, 28_000)
ETH_ARP = 0x0806
ARP_REQUEST, ARP_REPLY = 1, 2
_TCP = struct.Struct("!HHIIBBHHH")  # ports, sequence, acknowledged, header's length, flags, window, checksum, urgent
_PSEUDO = struct.Struct("!4s4sBBH")  # RFC 9293 §3.1: addresses, zero, protocol, length
_ARP = struct.Struct("!6s6sHHHBBH6s4s6s4s")
_BROADCAST = b"\xff" * 6


def checksum(data: bytes) -> int:
    """Return the internet checksum (RFC 1071) of `data`, which has an even length."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return int(~(total + (total >> 16)) & 0xFFFF)


def syn(own_ip: bytes, ip: bytes, port: int, number: int) -> bytes:
    """Return the TCP segment that asks for a connection; its sequence number is the probe's number."""
    source = PORTS[number % len(PORTS)]
    blank = _TCP.pack(source, port, number, 0, _TCP.size // 4 << 4, SYN, 1024, 0, 0)
    pseudo = _PSEUDO.pack(own_ip, ip, 0, socket.IPPROTO_TCP, _TCP.size)
    return _TCP.pack(source, port, number, 0, _TCP.size // 4 << 4, SYN, 1024, checksum(pseudo + blank), 0)


def syn_answer(packet: bytes, port: int) -> int | None:
    """Return the number of the probe that an IPv4 packet grants a connection; None for all others, RST included."""
    segment = packet[(packet[0] & 0x0F) * 4 :] if packet else b""
    if len(segment) < _TCP.size:
        return None
    source, target, _, acknowledged, _, flags, _, _, _ = _TCP.unpack_from(segment)
    if source != port or target not in PORTS or flags & 0x3F != SYN_ACK:
        return None
    return int(acknowledged - 1)


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

    def __init__(self, address: str, port: str, device: str, path: str) -> None:
        self.address = address
        self.ip = socket.inet_aton(address)
        self.port = int(port)
        self.tcp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        self.tcp.connect((address, 0))  # from now on it receives packets from this address only
        self.own_ip = socket.inet_aton(self.tcp.getsockname()[0])
        self.arp = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_ARP))
        self.arp.bind((device, ETH_ARP))
        self.mac = self.arp.getsockname()[4]
        self.number = 0
        for sock in (self.tcp, self.arp):
            sock.setblocking(False)
        self.out = sys.stdout if path == "-" else open(path, "w")  # noqa: SIM115 (lives as long as the process)
        self.running = True

    def send(self) -> None:
        """Send one SYN and one ARP request. An error of the network (no route, no neighbour) is a lost probe."""
        self.number += 1
        self.out.write(f"s {self.number} {time.time():.6f}\n")
        with contextlib.suppress(OSError):
            self.arp.send(arp_request(self.mac, self.own_ip, self.ip))
        with contextlib.suppress(OSError):
            self.tcp.send(syn(self.own_ip, self.ip, self.port, self.number))

    def receive(self, sock: socket.socket) -> None:
        """Take all packets that wait on `sock`; ends when it would block."""
        while True:
            try:
                packet = sock.recv(2048)
            except OSError:
                return
            now = time.time()
            if sock is self.tcp:
                if (answered := syn_answer(packet, self.port)) is not None:
                    self.out.write(f"e {answered} {now:.6f}\n")
            elif (mac := arp_answer(packet, self.mac, self.ip)) is not None:
                self.out.write(f"a {self.number} {mac} {now:.6f}\n")

    def run(self) -> None:
        """Probe until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        poll = select.poll()
        for sock in (self.tcp, self.arp):
            poll.register(sock, select.POLLIN)
        by_descriptor = {sock.fileno(): sock for sock in (self.tcp, self.arp)}
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


def read(text: str) -> tuple[dict[int, float], dict[int, float], dict[int, set[str]]]:
    """Return (sent, answered, owners) of a probe's file: times by number, MACs that answered by number."""
    sent: dict[int, float] = {}
    answered: dict[int, float] = {}
    owners: dict[int, set[str]] = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[0] == "s":
            sent[int(fields[1])] = float(fields[2])
        elif len(fields) == 3 and fields[0] == "e":
            answered[int(fields[1])] = float(fields[2])
        elif len(fields) == 4 and fields[0] == "a":
            owners.setdefault(int(fields[1]), set()).add(fields[2])
    return sent, answered, owners


def blackout_ms(text: str, since: float, until: float) -> float | None:
    """Return the longest time without an answered SYN in [since, until); 0.0 when none was lost, null without probes.

    From the last answered probe before a run of lost ones to the first answered after it: an upper bound, wide by
    one period on each side. A run that lasts to the end of the file counts to the last probe that was sent.
    """
    sent, answered, _ = read(text)
    numbers = [number for number in sorted(sent) if since <= sent[number] < until]
    if not numbers:
        return None
    longest, last_good, losing = 0.0, sent[numbers[0]], False
    for number in numbers:
        if number in answered and answered[number] - sent[number] <= ANSWER_S_MAX:
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
    """Probe ADDRESS and PORT on DEVICE into FILE until a signal comes."""
    if len(argv) != 4:
        sys.stderr.write("usage: probe.py ADDRESS PORT DEVICE FILE|-\n")
        return 2
    # A probe that waits for a processor sees nothing: it goes first, where it may. It needs some 2 % of one.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    Probe(*argv).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
