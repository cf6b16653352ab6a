"""Something that answers on a gateway: echoes UDP and accepts TCP on one port of every address, the virtual one too.

Runs alone with the standard library: `responder.py PORT`. The same for every system that is measured.
"""

import contextlib
import os
import select
import socket
import sys
from collections.abc import Sequence

_IP_PKTINFO = 8  # <linux/in.h>; not in Python's socket module before 3.14
BACKLOG = 512
BYTES_MAX = 2048


def echo(opened: socket.socket) -> None:
    """Answer every datagram that waits from the address that it was sent to; ends when none waits."""
    while True:
        try:
            data, ancillary, _, source = opened.recvmsg(BYTES_MAX, 64)
        except OSError:
            return
        # struct in_pktinfo comes with the destination; a reply with it leaves from there, or not at all.
        told = [(level, kind, content) for level, kind, content in ancillary if kind == _IP_PKTINFO]
        with contextlib.suppress(OSError):
            opened.sendmsg([data], [(level, kind, b"\0" * 4 + content[4:]) for level, kind, content in told], 0, source)


def main(argv: Sequence[str]) -> int:
    """Answer until killed."""
    port = int(argv[0])
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    udp.bind(("0.0.0.0", port))
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind(("0.0.0.0", port))
    tcp.listen(BACKLOG)
    for opened in (udp, tcp):
        opened.setblocking(False)
    # A busy machine must not make it late: what is measured is the address. It needs 2 % of a processor.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    poll = select.poll()
    poll.register(udp, select.POLLIN)
    poll.register(tcp, select.POLLIN)
    while True:  # ends with its host
        for descriptor, _ in poll.poll():
            if descriptor == udp.fileno():
                echo(udp)
            else:
                with contextlib.suppress(OSError):
                    tcp.accept()[0].close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
