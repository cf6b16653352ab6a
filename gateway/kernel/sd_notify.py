"""What systemd is told of this service: ready, stopping, alive, and a line of status (sd_notify(3)).

Rule: it never waits, and nobody cares whether it is read. Without NOTIFY_SOCKET everything here does nothing.
"""

import contextlib
import os
import socket
from collections.abc import Mapping

STATUS_CHARACTERS_MAX = 200  # a line of `systemctl status`


class SystemdNotifier:
    """The service's voice. `watchdog_s`: how often `alive` is to be called at least; None: nobody watches.

    Args:
        environment: NOTIFY_SOCKET and WATCHDOG_USEC, as systemd sets them. The unit has NotifyAccess=all: the main
            process is the guard, and what speaks is control.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address  # unix(7): an abstract one
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if address else None
        usec = environment.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(usec) / 2 / 1_000_000 if usec.isdecimal() and int(usec) and address else None
        self._status = ""

    def ready(self) -> None:
        """The service does its work; again after a reload."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The service is about to end."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """The event loop runs."""
        self._send("WATCHDOG=1")

    def status(self, sentence: str) -> None:
        """Say what the service is doing, where that is something new."""
        if sentence != self._status:
            self._status = sentence
            self._send("STATUS=" + sentence.replace("\n", " ")[:STATUS_CHARACTERS_MAX])

    def _send(self, assignment: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # a full queue, or a systemd that is being replaced
                self._socket.sendto(assignment.encode(), self._address)
