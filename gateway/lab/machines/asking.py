"""Who answers as the address: a process that asks by ARP for ever, and writes down every answer.

`python -m gateway.lab.machines.asking ADDRESS WIRE FILE`, where the switch is. It says `ready`, asks twice a second
until SIGTERM, and writes a line `MAC TIME` for each answer, in unix seconds, at once. A host that is suspended has the
questions in its queue when it goes on: that is how an old owner is caught.
"""

import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence

READY = "ready"
PERIOD_S = 0.5
_ETH_P_ARP = 0x0806
_REQUEST, _REPLY = 1, 2
_ARP = struct.Struct("!HHBBH6s4s6s4s")  # RFC 826
_BROADCAST = b"\xff" * 6
ASKER_NUMBER = 254  # of the address's network: no host has it


def question(mac: bytes, address: str) -> bytes:
    """Return the frame that asks who has `address`, from a neighbour that has nothing but a MAC and a number."""
    target = socket.inet_aton(address)
    sender = target[:3] + bytes([ASKER_NUMBER])
    arp = _ARP.pack(1, 0x0800, 6, 4, _REQUEST, mac, sender, bytes(6), target)
    return _BROADCAST + mac + struct.pack("!H", _ETH_P_ARP) + arp


def answer_untrusted(frame: bytes, address: str) -> str | None:
    """Return the MAC that a frame says has `address`; None: it is no answer to us."""
    if len(frame) < 14 + _ARP.size:
        return None
    _, _, _, _, operation, mac, said, _, _ = _ARP.unpack_from(frame, 14)
    return mac.hex(":") if operation == _REPLY and said == socket.inet_aton(address) else None


def main(argv: Sequence[str]) -> int:
    """Ask until a signal comes."""
    address, wire, path = argv
    ended: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.append(1))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP)) as wired, open(path, "w") as file:
        wired.bind((wire, _ETH_P_ARP))
        asked = question(wired.getsockname()[4], address)
        print(READY, flush=True)
        due = time.monotonic()
        while not ended:  # ends by a signal
            if time.monotonic() >= due:
                wired.send(asked)
                due += PERIOD_S
            if select.select([wired], [], [], 0.05)[0]:
                said = answer_untrusted(wired.recv(128), address)
                if said is not None:
                    file.write(f"{said} {time.time():.3f}\n")
                    file.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
