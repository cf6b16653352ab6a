"""The address from outside, every 2 ms: UDP, ICMP and TCP from a client, and ICMP asked of each gateway's own MAC.

A process of its own: `python -m gateway.lab.measure.pulse ADDRESS PORT DEVICE FILE NAMESPACE MAC...`. The client's
kernel finds the address as any would, by ARP. The bystander, whose namespace is named, asks every gateway for the
address by MAC: whoever still answers for it is seen, also when no client asks it any more. Times are unix seconds;
those of answers are the kernel's, so that a late process makes no gap. The file is written at its end, by SIGTERM.
"""

import contextlib
import ctypes
import fcntl
import gc
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence

from gateway.lab.measure.probe import checksum, syn, syn_answer

PERIOD_S = 0.002
# So many periods in a row with an answer of every kind: the address is up. Said once, on the standard output.
STEADY_COUNT = 100
STEADY = "steady"
KINDS = {"u": "udp", "i": "icmp", "c": "tcp"}
TICK = "t"

_SO_TIMESTAMPNS = 35
_CLONE_NEWNET = 0x40000000
_SIOCGIFADDR = 0x8915
_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_COUNT = struct.Struct("!Q")
_MAGIC = b"condor-gateway"
_BYTES_MAX = 2048


def echo_request(number: int, identifier: int) -> bytes:
    """Return an ICMP echo request that carries `number` (RFC 792)."""
    body = _MAGIC + _COUNT.pack(number)
    blank = struct.pack("!BBHHH", _ECHO_REQUEST, 0, 0, identifier, number & 0xFFFF) + body
    return blank[:2] + struct.pack("!H", checksum(blank)) + blank[4:]


def echo_answer(packet: bytes, identifier: int) -> int | None:
    """Return the number that an IPv4 packet echoes to us; None for all others."""
    message = packet[(packet[0] & 0x0F) * 4 :] if packet else b""
    if len(message) < 8 + len(_MAGIC) + _COUNT.size or message[0] != _ECHO_REPLY:
        return None
    if int.from_bytes(message[4:6], "big") != identifier or message[8 : 8 + len(_MAGIC)] != _MAGIC:
        return None
    return int(_COUNT.unpack_from(message, 8 + len(_MAGIC))[0])


def asking_frame(target: bytes, source: bytes, own_ip: bytes, ip: bytes, number: int, identifier: int) -> bytes:
    """Return the Ethernet frame that asks the machine with MAC `target` whether it answers for `ip`."""
    message = echo_request(number, identifier)
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(message), number & 0xFFFF, 0, 64, socket.IPPROTO_ICMP, 0, own_ip, ip
    )
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return target + source + b"\x08\x00" + head + message


class Pulse:
    """Sends one of everything each period and keeps what came back."""

    def __init__(self, address: str, port: int, device: str, namespace: str, macs: Sequence[str]) -> None:
        self.ip, self.port = socket.inet_aton(address), port
        self.to = (address, port)
        self.identifier = os.getpid() & 0xFFFF
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("", 0))
        self.icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self.tcp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        for raw in (self.icmp, self.tcp):
            raw.connect((address, 0))  # from now on it receives packets from this address only
        self.own_ip = socket.inet_aton(self.tcp.getsockname()[0])
        for sock in (self.udp, self.icmp, self.tcp):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self.macs = [bytes.fromhex(mac.replace(":", "")) for mac in macs]
        self.asking, self.asking_ip = _asking_socket(namespace, device)
        self.asking_mac = self.asking.getsockname()[4]
        self.number = 0
        self.records: list[tuple[str, int, float]] = []
        self.steady = 0
        self.answered_kinds: set[str] = set()
        self.running = True

    def send(self) -> None:
        """Send one of each. An error of the network (no route, no neighbour) is a probe without an answer."""
        self.number += 1
        number = self.number
        self.records.append((TICK, number, time.time()))
        with contextlib.suppress(OSError):
            self.udp.sendto(_MAGIC + _COUNT.pack(number), self.to)
        with contextlib.suppress(OSError):
            self.icmp.send(echo_request(number, self.identifier))
        with contextlib.suppress(OSError):
            self.tcp.send(syn(self.own_ip, self.ip, self.port, number))
        for mac in self.macs:
            frame = asking_frame(mac, self.asking_mac, self.asking_ip, self.ip, number, self.identifier)
            with contextlib.suppress(OSError):
                self.asking.send(frame)

    def receive(self, kind: str, sock: socket.socket) -> None:
        """Take all packets that wait on `sock`; ends when it would block."""
        while True:
            try:
                packet, ancillary, _, _ = sock.recvmsg(_BYTES_MAX, 64)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error that an earlier packet has met: its probe stays without an answer
            number = self._number(kind, packet)
            if number is not None and ancillary:
                seconds, nanoseconds = struct.unpack_from("qq", ancillary[0][2])
                self.records.append((kind, number, seconds + nanoseconds / 1e9))
                self.answered_kinds.add(kind)

    def _number(self, kind: str, packet: bytes) -> int | None:
        match kind:
            case "u":
                known = len(packet) == len(_MAGIC) + _COUNT.size and packet.startswith(_MAGIC)
                return int(_COUNT.unpack_from(packet, len(_MAGIC))[0]) if known else None
            case "i":
                return echo_answer(packet, self.identifier)
        return syn_answer(packet, self.port)

    def run(self, path: str) -> None:
        """Probe until SIGTERM or SIGINT, then write what was seen."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        kinds = {"u": self.udp, "i": self.icmp, "c": self.tcp}
        poll = select.poll()
        for sock in kinds.values():
            poll.register(sock, select.POLLIN)
        by_descriptor = {sock.fileno(): kind for kind, sock in kinds.items()}
        gc.disable()  # the records hold no cycles, and there are soon a hundred thousand of them
        due = time.monotonic()
        while self.running:  # ends by a signal
            now = time.monotonic()
            if now >= due:
                self._count_steady()
                self.send()
                due = max(due + PERIOD_S, now)
            for descriptor, _ in poll.poll(max(0.0, (due - time.monotonic()) * 1000)):
                kind = by_descriptor[descriptor]
                self.receive(kind, kinds[kind])
        with open(path, "w") as file:
            file.writelines(f"{kind} {number} {at:.6f}\n" for kind, number, at in self.records)

    def _count_steady(self) -> None:
        if self.steady < STEADY_COUNT:
            self.steady = self.steady + 1 if len(self.answered_kinds) == len(KINDS) else 0
            self.answered_kinds.clear()
            if self.steady == STEADY_COUNT:
                print(STEADY, flush=True)

    def _stop(self, *_: object) -> None:
        self.running = False


def _asking_socket(namespace: str, device: str) -> tuple[socket.socket, bytes]:
    """Return a packet socket on `device` in another network namespace, which lives on there, and its IPv4 address."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net") as own, open(namespace) as other:
        try:
            if libc.setns(other.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns to {namespace}")
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # 0: it sends only
            opened.bind((device, 0))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
                told = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("256s", device.encode()))
            return opened, told[20:24]
        finally:
            libc.setns(own.fileno(), _CLONE_NEWNET)


def main(argv: Sequence[str]) -> int:
    """Probe until a signal comes."""
    address, port, device, path, namespace, *macs = argv
    pulse = Pulse(address, int(port), device, namespace, macs)
    # A probe that waits for a processor sees nothing: it goes first, where it may. It needs some 10 % of one.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    pulse.run(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
