"""A will: what the guard does in control's name for one election that control served. Never waits.

Rule: first the fence, then the letters. A letter says "I serve no more", so it leaves only when that is certain.

The fence of an address is a netlink request, answered at once. That of a matchmaker is a negotiator that is dead and
that condor_master can't start again: SIGKILL, the node's file, SIGHUP. The file is written by a child: a hung disk
holds that child, and neither the guard nor another election's will (a thread would hold the interpreter's lock while a
busy CPU does not let it run: it has no real-time priority).
"""

from __future__ import annotations

import _signal
import _socket
import _struct
import errno
import posix

from gateway.guard import process

TYPE_CHECKING = False  # `typing` takes 9 ms and 2 MiB, for nothing at run time
if TYPE_CHECKING:
    from typing import Any

RETRY_MS = 200  # between two tries to write the file
KILLED_MS_MAX = 2_000  # an election whose fence takes longer sends no letter: its peers have waited for the lease
LATER_MS = 10  # between two looks at what has no event

_HEADER = _struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port id
_NLM_F_ACK = 4
_NLMSG_ERROR = 2
_GONE = (0, errno.ENODEV, errno.EADDRNOTAVAIL)


class Hands:
    """What wills are done with: sockets that are open before they are needed."""

    def __init__(self) -> None:
        self.route = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, _socket.NETLINK_ROUTE)
        self.route.setblocking(False)
        self._sequence = 0
        self.udp = {}
        for family in (_socket.AF_INET, _socket.AF_INET6):
            try:
                self.udp[family] = _socket.socket(family, _socket.SOCK_DGRAM)
            except OSError:  # a kernel without IPv6
                continue
            self.udp[family].setblocking(False)

    def ask_kernel(self, request: bytes) -> bool:
        """Send one netlink request; return whether what it takes away is gone. rtnetlink answers within `send`."""
        self._sequence += 1
        message = bytearray(request)
        length, kind, flags, _, _ = _HEADER.unpack_from(message)
        _HEADER.pack_into(message, 0, length, kind, flags | _NLM_F_ACK, self._sequence, 0)
        try:
            self.route.send(message)
            while True:  # ends with the answer, or with an empty queue
                answer = self.route.recv(4096)
                _, kind, _, sequence, _ = _HEADER.unpack_from(answer)
                if sequence == self._sequence and kind == _NLMSG_ERROR:
                    (code,) = _struct.unpack_from("=i", answer, _HEADER.size)
                    return -code in _GONE
        except OSError:
            return False

    def post(self, host: str, port: int, datagram: bytes) -> bool:
        """Send one letter. Whether it arrives nobody knows; a lost one costs its reader a lease."""
        try:
            self.udp[_socket.AF_INET6 if ":" in host else _socket.AF_INET].sendto(datagram, (host, port))
        except (OSError, KeyError):
            return False
        return True


class Will:
    """One election's will.

    `fields` of the message: election, until_ms (the end of the lease on CLOCK_BOOTTIME), at_end (do it when the lease
    ends, control alive or not), requests (netlink), kills and hangups (how many of the descriptors are processes to
    kill, and how many after them to send SIGHUP), offspring ((parent's pid, binary), ...: children to be killed
    also where they are not known yet), files ((path, text), ...), settle_ms (how long after the SIGHUP such a child
    may still appear).
    """

    def __init__(self, fields: tuple[Any, ...], descriptors: list[int]) -> None:
        self.election: str
        self.until_ms: int
        self.at_end: bool
        self._requests: tuple[bytes, ...]
        self._offspring: tuple[tuple[int, str], ...]
        self._files: tuple[tuple[str, str], ...]
        self._settle_ms: int
        (
            self.election,
            self.until_ms,
            self.at_end,
            self._requests,
            kills,
            hangups,
            self._offspring,
            self._files,
            self._settle_ms,
        ) = fields
        assert kills + hangups == len(descriptors), f"{len(descriptors)} descriptors for {kills} + {hangups} processes"
        self._kills = descriptors[:kills]
        self._hangups = descriptors[kills:]
        self._found: dict[int, int] = {}  # pid -> pidfd of offspring that was found and killed
        self.letters: tuple[tuple[str, int, bytes], ...] = ()
        self.struck_ms: int | None = None  # when the fence was begun
        self.bequeathed_ms: int | None = None  # when control was found dead: from then on the letters are due
        self._released = not self._requests
        self._writer: int | None = None  # pid of the child that writes
        self._retry_ms = 0
        self._settled_ms: int | None = None if self._files else 0  # from when on nothing new can appear
        self.closed = False

    def strike(self, hands: Hands, now_ms: int) -> None:
        """Do what takes microseconds: addresses away, processes killed. May be done again."""
        if self.struck_ms is None:
            self.struck_ms = now_ms
        for pidfd in self._kills:
            process.send(pidfd, _signal.SIGKILL)
        self._kill_offspring()
        self._release(hands)

    def advance(self, hands: Hands, now_ms: int) -> bool:
        """Do what takes longer, step by step; return whether the fence stands."""
        assert self.struck_ms is not None, "first strike, then advance"
        if not self._released:
            self._release(hands)
        if self._files and self._settled_ms is None:
            self._write(now_ms)
        self._kill_offspring()
        return self._stands(now_ms)

    def close(self) -> None:
        """Let go of the processes; a child that still writes is killed, so that it writes over nobody's later file."""
        self.closed = True
        for descriptor in (*self._kills, *self._hangups, *self._found.values()):
            posix.close(descriptor)
        self._kills, self._hangups, self._found = [], [], {}
        if self._writer is not None and process.collect(self._writer) is None:
            process.abandon(self._writer)
        self._writer = None

    def _release(self, hands: Hands) -> None:
        answers = [hands.ask_kernel(request) for request in self._requests]  # all of them, whatever the first says
        self._released = all(answers)

    def _stands(self, now_ms: int) -> bool:
        settled = self._settled_ms is not None and now_ms >= self._settled_ms
        return self._released and settled and all(map(process.ended, (*self._kills, *self._found.values())))

    def _kill_offspring(self) -> None:
        for parent, binary in self._offspring:
            for pid in process.children(parent):
                pidfd = process.hold(pid, binary) if pid not in self._found else None
                if pidfd is not None:
                    process.send(pidfd, _signal.SIGKILL)
                    self._found[pid] = pidfd

    def _write(self, now_ms: int) -> None:
        if self._writer is None:
            if now_ms >= self._retry_ms:
                self._writer = _start_writer(self._files)
            return
        status = process.collect(self._writer)
        if status is None:
            return
        self._writer = None
        if status != 0:
            self._retry_ms = now_ms + RETRY_MS
            return
        for pidfd in self._hangups:
            process.send(pidfd, _signal.SIGHUP)
        self._settled_ms = now_ms + self._settle_ms


def _start_writer(files: tuple[tuple[str, str], ...]) -> int:
    """Start a child that writes `files` and ends with 0, or with 1 where it could not; return its pid."""
    pid = posix.fork()
    if pid:
        return pid
    status = 1
    try:
        # Control and the relay learn of our end by these descriptors: a child that hangs must not keep them open.
        posix.closerange(3, 65_536)
        for path, text in files:
            _write_whole(path, text.encode())
        status = 0
    finally:
        posix._exit(status)


def _write_whole(path: str, data: bytes) -> None:
    """Put `data` at `path`: whole or not at all, also through a crash. Under another name than control's own."""
    folder, _, name = path.rpartition("/")
    new = f"{folder}/.{name}.guard"  # HTCondor reads no file whose name begins with a dot
    opened = posix.open(new, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_NOFOLLOW, 0o644)
    while data:
        data = data[posix.write(opened, data) :]
    posix.fsync(opened)
    posix.close(opened)
    posix.rename(new, path)
    directory = posix.open(folder, posix.O_RDONLY | posix.O_DIRECTORY)
    posix.fsync(directory)
