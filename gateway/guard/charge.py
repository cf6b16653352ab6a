"""The guard's charge: one control process, its link, its wills, and what its silence means.

Rule: silence alone proves nothing. A control that waits in its event loop is silent until its next timer, so after
`dead_ms` without a word the state of the process is looked at: one that is stopped is frozen; one that waits or is
about to run has until `late_ms`. The look costs 15 us when it is needed; a task of control that must speak every few
milliseconds would cost it 2 % of a core all day, and its life whenever a busy CPU makes it late.

One that is blocked in the kernel (state D) may be as healthy as one that runs: to renew a lease it waits for the one
lock that all nftables transactions of its network namespace share, and another program's rule set of 4,000 rules holds
it for 100 to 150 ms. (With real-time priority it spins on that lock: the same wait is seen as running.) So it has until
`late_ms` as well. What is served can't outlive its lease meanwhile: the kernel ends an address, and the guard does the
wills with `at_end`.
"""

from __future__ import annotations

import _socket
import posix

from gateway.guard import process, protocol
from gateway.guard.will import Will
from gateway.kernel.clock import boot_ms

TYPE_CHECKING = False  # `typing` takes 9 ms and 2 MiB, for nothing at run time
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

START_MS_MAX = 120_000  # HTCondor's tools alone may take 20 s of a start
HUNG_MS_MAX = 10_000  # silence of a control that serves nothing
LOOK_MS = 10  # between two looks at the state of a silent control
LOOKED_MS_MAX = 5  # a look that took longer: the guard itself did not run
DRAIN_MAX = 512  # messages taken in one turn; the kernel's queue holds fewer

_DESCRIPTOR_BYTES = 4
_ANCILLARY_BYTES = _socket.CMSG_SPACE(protocol.DESCRIPTORS_MAX * _DESCRIPTOR_BYTES)


class Control:
    """One control process. `pid` is our child's, and has not been waited for."""

    def __init__(self, pid: int, pidfd: int, link: _socket.socket, now_ms: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.link = link
        self.link_ended = False
        self.ready = False
        self.dead_ms = 0  # both told by READY
        self.late_ms = 0
        self.begun_ms = self.heard_ms = now_ms
        self.killed: str | None = None  # why the guard has killed it
        self.lates = 0  # how often it was about to run, or blocked, and had not spoken for `dead_ms`
        self.wills: dict[str, Will] = {}
        self.told: tuple[tuple[int, str, str], ...] = ()  # notes that it was given, and that the guard still keeps
        self._silent = False

    @property
    def armed(self) -> bool:
        """Whether it serves something: then nothing that it says is urgent, and is read when the clock asks for it.

        All but a relay's start, that is, which may wait for 30 ms. Reading every word at once cost 1.4 % of a core.
        """
        return self.ready and bool(self.wills)

    def heard(self, at_ms: int) -> None:
        """Begin to count its silence from `at_ms`."""
        if at_ms > self.heard_ms:
            self.heard_ms = at_ms
            self._silent = False

    def look_ms(self, now_ms: int) -> int:
        """Return when it is next to be judged."""
        if not self.ready:
            return self.begun_ms + START_MS_MAX
        if not self.wills:
            return self.heard_ms + HUNG_MS_MAX
        first_ms = self.heard_ms + self.dead_ms
        if now_ms < first_ms:
            return first_ms
        return now_ms + LOOK_MS

    def judge(self, now_ms: int) -> str | None:
        """Return why it must be killed: `frozen`, `late`, `hung`; None where it need not."""
        if not self.armed:
            return "hung" if now_ms >= self.look_ms(now_ms) else None
        silent_ms = now_ms - self.heard_ms
        if silent_ms < self.dead_ms:
            return None
        state = process.state(self.pid)
        if boot_ms() - now_ms > LOOKED_MS_MAX:
            return None  # the look itself took long: was the guard frozen too? The next turn will know
        if state in process.STOPPED:
            return "frozen"
        if state in process.BUSY:
            self.lates += not self._silent
            self._silent = True
        return "late" if silent_ms >= self.late_ms else None

    def send(self, kind: int, *fields: Any, descriptor: int | None = None) -> None:
        """Tell it something. Where its queue is full, or it is dead, nothing depends on it."""
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptor.to_bytes(4, "little"))] if descriptor else []
        try:  # noqa: SIM105 (contextlib is not imported here)
            self.link.sendmsg([protocol.encode(kind, *fields)], rights, _socket.MSG_NOSIGNAL)
        except OSError:
            pass

    def read(self, limit: int = DRAIN_MAX) -> Iterator[tuple[int, tuple[Any, ...], list[int]]]:
        """Yield what it has said: kind, fields, descriptors. Sets `link_ended` at the end."""
        for _ in range(limit):
            try:
                data, ancillary, _flags, _ = self.link.recvmsg(
                    protocol.MESSAGE_BYTES_MAX, _ANCILLARY_BYTES, _socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                data, ancillary = b"", []
            if not data:
                self.link_ended = True
                return
            kind, fields = protocol.decode(data)
            yield kind, fields, _descriptors(ancillary)

    def close(self) -> None:
        """Let go of a process that has ended. Its wills are the guard's now."""
        self.link.close()
        posix.close(self.pidfd)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    return [
        int.from_bytes(data[at : at + _DESCRIPTOR_BYTES], "little")
        for _level, _kind, data in ancillary
        for at in range(0, len(data) - len(data) % _DESCRIPTOR_BYTES, _DESCRIPTOR_BYTES)
    ]
