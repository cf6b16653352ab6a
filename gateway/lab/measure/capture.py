"""What the gateways send in the name of the address, as the switch sees it: which port, when.

A process of its own in the switch's namespace: `python -m gateway.lab.measure.capture ADDRESS FILE PORT...`. It says
`ready`, is quiet until SIGTERM, and then writes a line `PORT arp|ip TIME` for every frame that came in from a port and
claims to be from the address: IPv4 from it, ARP that speaks for it. Times are the kernel's, in unix seconds. Where the
kernel had to drop one, for nobody took it, it writes nothing and exits with 1: half a record would show silence.
"""

import contextlib
import ctypes
import gc
import select
import signal
import socket
import struct
import sys
from collections.abc import Sequence

READY = "ready"
_ETH_P_ALL = 0x0003
_SO_TIMESTAMPNS = 35
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_IGNORE_OUTGOING = 263, 6, 23  # <linux/if_packet.h>; the last: Linux 4.20
_QUEUE_BYTES = 32 << 20  # ten seconds of everything, should this process get no processor
_BYTES = 64  # of a frame: more is not looked at


def address_filter(address: str) -> list[tuple[int, int, int, int]]:
    """Return the classic BPF program that passes IPv4 from `address` and ARP whose sender address it is."""
    ip = int.from_bytes(socket.inet_aton(address), "big")
    return [
        (0x28, 0, 0, 12),  # ldh: EtherType
        (0x15, 0, 2, 0x0800),  # IPv4?
        (0x20, 0, 0, 26),  # ld: source address
        (0x15, 3, 4, ip),
        (0x15, 0, 3, 0x0806),  # ARP?
        (0x20, 0, 0, 28),  # ld: sender protocol address
        (0x15, 0, 1, ip),
        (0x06, 0, 0, _BYTES),
        (0x06, 0, 0, 0),
    ]


def open_capture(port: str, address: str) -> socket.socket:
    """Return a packet socket that gets what comes in from `port` and is from `address`."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # 0: nothing before the filter stands
    program = b"".join(struct.pack("HBBI", *line) for line in address_filter(address))
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("HL", len(program) // 8, ctypes.addressof(buffer))  # struct sock_fprog, with its padding
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
    opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _QUEUE_BYTES)
    opened.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    opened.setblocking(False)
    opened.bind((port, _ETH_P_ALL))
    return opened


class Recorder:
    """Takes frames of some ports and keeps who sent what when."""

    def __init__(self, ports: dict[int, str], sockets: dict[int, socket.socket]) -> None:
        self.ports = ports
        self.sockets = sockets
        self.records: list[tuple[str, str, float]] = []
        self.running = True

    def dropped(self) -> dict[str, int]:
        """Return how many frames of each port the kernel has dropped since the last call, where it has."""
        found: dict[str, int] = {}
        for descriptor, sock in self.sockets.items():
            _, drops = struct.unpack("II", sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
            if drops:
                found[self.ports[descriptor]] = drops
        return found

    def take(self, descriptor: int) -> None:
        """Take all frames that wait; ends when none does. A port that goes down says so once, as an error."""
        sock, port = self.sockets[descriptor], self.ports[descriptor]
        while True:
            try:
                frame, ancillary, _, _ = sock.recvmsg(_BYTES, 64)
            except BlockingIOError:
                return
            except OSError:
                continue
            seconds, nanoseconds = struct.unpack_from("qq", ancillary[0][2])
            kind = "arp" if frame[12:14] == b"\x08\x06" else "ip"
            self.records.append((port, kind, seconds + nanoseconds / 1e9))

    def run(self, path: str) -> bool:
        """Record until SIGTERM or SIGINT, then write what was seen; False: not all of it was."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        poll = select.poll()
        for descriptor in self.sockets:
            poll.register(descriptor, select.POLLIN)
        gc.disable()  # the records hold no cycles
        print(READY, flush=True)
        while self.running:  # ends by a signal
            for descriptor, _ in poll.poll(50):
                self.take(descriptor)
        for descriptor in self.sockets:
            self.take(descriptor)
        if lost := self.dropped():
            text = ", ".join(f"{count} of {port}" for port, count in lost.items())
            print(f"the kernel dropped frames: {text}", file=sys.stderr)
            return False
        with open(path, "w") as file:
            file.writelines(f"{port} {kind} {at:.6f}\n" for port, kind, at in self.records)
        return True

    def _stop(self, *_: object) -> None:
        self.running = False


def main(argv: Sequence[str]) -> int:
    """Record until a signal comes."""
    address, path, *names = argv
    with contextlib.ExitStack() as stack:
        opened = [(name, stack.enter_context(open_capture(name, address))) for name in names]
        ports = {sock.fileno(): name for name, sock in opened}
        return 0 if Recorder(ports, {sock.fileno(): sock for _, sock in opened}).run(path) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
