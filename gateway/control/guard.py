"""Control's end of the guard: it says that it lives, what to do when it does not, and has relays started.

Rule: nothing here waits. What the guard's queue has no room for is kept, the newest of each kind, and sent later; a
guard that reads nothing (it is stopped) guards nothing, and control goes on without it.
"""

import contextlib
import fcntl
import os
import resource
import signal
import socket
from typing import Any

import msgspec
import structlog
import trio

from gateway.guard import protocol
from gateway.kernel.clock import boot_ms

BEAT_MS = 10  # the least time between two beats: a third of the silence after which the guard looks
IDLE_BEAT_MS = 1_000  # where nothing is served: a tenth of what the guard waits then
# A control that runs and is silent: a timer comes each heartbeat, so two of them have been missed.
HEARTBEATS_MISSED = 2
LINK_NUMBER = 1000  # of the link's descriptor, where the limit allows it: above all others of control
DEAD_MS_ORDINARY = 100  # without real-time priority: a busy CPU alone keeps it from speaking for so long


class Fencing(msgspec.Struct, frozen=True, kw_only=True):
    """What ends the serving of one election without the help of this process.

    The fields are explained in `gateway.guard.will.Will`; `kills` and `hangups` are pidfds, which stay their owner's.
    """

    at_end: bool = False
    requests: tuple[bytes, ...] = ()
    kills: tuple[int, ...] = ()
    hangups: tuple[int, ...] = ()
    offspring: tuple[tuple[int, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    settle_ms: int = 0


class GuardedRelay:
    """A relay that is the guard's child; see `gateway.relay.client.RelayProcess`."""

    def __init__(self) -> None:
        self.pid: int | None = None
        self.started = trio.Event()
        self.ended = trio.Event()
        self.scope = trio.CancelScope(shield=True)
        self.status = 0
        self.reason = ""
        self._pidfd = -1
        self._doomed = False

    async def live(self) -> None:
        """Wait for its end."""
        with self.scope:
            await self.ended.wait()

    def kill(self) -> None:
        """End it now, or as soon as it is known."""
        self._doomed = True
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def note_start(self, pid: int, pidfd: int) -> None:
        """It runs."""
        self.pid, self._pidfd = pid, pidfd
        if self._doomed:
            self.kill()
        self.started.set()

    def note_end(self, status: int, reason: str) -> None:
        """It has ended, or could not be started."""
        self.status, self.reason = status, reason
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self.started.set()
        self.ended.set()


Letter = tuple[str, int, bytes]  # host, port, sealed datagram


class GuardLink:
    """The link to the guard that has started this process; without one (`link` None) everything here does nothing."""

    def __init__(self, link: socket.socket | None) -> None:
        self._link = None if link is None else _raised(link)
        self._log = structlog.get_logger()
        self._beat_at_ms = 0
        self._armed: set[str] = set()
        # What had no room: by (kind, election or token), so that a newer one replaces the older, in order of age.
        self._unsent: dict[tuple[int, object], tuple[bytes, tuple[int, ...]]] = {}
        self._room_wanted = trio.Event()
        self._relays: dict[int, GuardedRelay] = {}
        self._token = 0
        self.report: dict[str, Any] = {}
        self.reloads_failed = 0
        self.reload_failure = ""  # why the last one did
        self._heir_seen = False  # whether the reload under way came so far that somebody here may say why it failed
        self._heirs_in, self.heirs = trio.open_memory_channel[socket.socket](1)  # ends to processes that may take over
        self.lost = trio.Event()  # the guard has ended: there is nobody who could end what this process began

    @property
    def present(self) -> bool:
        """Whether a guard has started this process, and lives."""
        return self._link is not None and not self.lost.is_set()

    # -- said to the guard ---------------------------------------------------------------------------------------

    def ready(self, *, dead_ms: int, heartbeat_ms: int, lease_ms: int, realtime: bool) -> None:
        """Have this process' silence judged from now on.

        Args:
            dead_ms: after how much silence the guard looks whether this process is frozen.
            heartbeat_ms: how often a timer of a leader comes.
            lease_ms: a late process is given half of this, and all of it without real-time priority; the lease
                protects meanwhile. Half, because a renewal waits in the kernel for other programs' transactions of
                nftables, 150 ms for a big one, and peers are still told in time.
            realtime: whether this process runs in real time.
        """
        dead_ms = dead_ms if realtime else max(dead_ms, DEAD_MS_ORDINARY)
        late_ms = dead_ms + max(HEARTBEATS_MISSED * heartbeat_ms, 3 * dead_ms)
        self._say(protocol.READY, None, dead_ms, max(late_ms, lease_ms // 2 if realtime else lease_ms))

    def beat(self) -> None:
        """Say that the event loop runs. To be called at every wake-up; costs a clock's reading most of the time."""
        now_ms = boot_ms()
        if now_ms < self._beat_at_ms or self._link is None:
            return
        self._beat_at_ms = now_ms + (BEAT_MS if self._armed else IDLE_BEAT_MS)
        with contextlib.suppress(OSError):  # a full queue holds other signs of life; a dead guard is seen by `run`
            self._link.send(protocol.encode(protocol.BEAT, now_ms), socket.MSG_NOSIGNAL)

    def will(self, election: str, until_ms: int, fencing: Fencing) -> None:
        """Have `fencing` done when this process dies, and with `at_end` when the lease ends at `until_ms`.

        Letters that were given before are kept. When this returns the guard has it, whatever happens next, unless it
        does not read.
        """
        self._armed.add(election)
        self._beat_at_ms = 0
        self.beat()  # the last one may be a second old: there was nothing to lose
        self._say(
            protocol.WILL,
            election,
            until_ms,
            fencing.at_end,
            fencing.requests,
            len(fencing.kills),
            len(fencing.hangups),
            fencing.offspring,
            fencing.files,
            fencing.settle_ms,
            descriptors=(*fencing.kills, *fencing.hangups),
        )

    def letters(self, election: str, letters: tuple[Letter, ...]) -> None:
        """Have these letters sent, instead of those before, when the fencing of `election` is certain."""
        self._say(protocol.LETTERS, election, letters)

    def extend(self, election: str, until_ms: int) -> None:
        """Tell that the lease of `election` goes on until `until_ms`; that is a sign of life as well."""
        now_ms = boot_ms()
        self._beat_at_ms = now_ms + BEAT_MS
        self._say(protocol.EXTEND, election, until_ms, now_ms)

    def clear(self, election: str) -> None:
        """Withdraw the will: this process serves `election` no more."""
        self._armed.discard(election)
        self._say(protocol.CLEAR, election)

    def spawn_relay(self, end: socket.socket) -> "GuardedRelay":
        """Have a relay started on its `end` of a socket pair, which is closed here."""
        self._token += 1
        relay = GuardedRelay()
        self._relays[self._token] = relay
        with end:
            self._say(protocol.SPAWN_RELAY, self._token, descriptors=(end.fileno(),))
        return relay

    def ask_patience(self, silent_ms: int) -> None:
        """Have silences of up to `silent_ms` forgiven: this process is about to be silent on purpose."""
        self._say(protocol.READY, None, silent_ms, silent_ms)

    def adopt_relay(self, token: int, pid: int) -> GuardedRelay:
        """Return the relay that the guard has started for the process before this one.

        Raises:
            ProcessLookupError: it has ended meanwhile.
        """
        relay = GuardedRelay()
        relay.note_start(pid, os.pidfd_open(pid))
        self._relays[token] = relay
        self._token = max(self._token, token)
        return relay

    def token_of(self, pid: int | None) -> int | None:
        """Return the guard's name for the relay with this number; None for none."""
        return next((token for token, relay in self._relays.items() if relay.pid == pid), None)

    def taken_over(self) -> None:
        """Tell the guard that this process acts from now on, and not the one before it."""
        self._say(protocol.TAKEN_OVER, None)

    def _say(self, kind: int, key: object, *fields: Any, descriptors: tuple[int, ...] = ()) -> None:
        if self._link is None:
            return
        message = protocol.encode(kind, *fields) if key is None else protocol.encode(kind, key, *fields)
        # The descriptors may be closed before there is room: copies wait with the message.
        kept = tuple(os.dup(descriptor) for descriptor in descriptors)
        for _, dropped in (self._unsent.pop((kind, key), (b"", ())),):
            _close(dropped)
        self._unsent[kind, key] = message, kept
        self._send_unsent()

    def _send_unsent(self) -> None:
        assert self._link is not None
        while self._unsent:
            key = next(iter(self._unsent))
            message, descriptors = self._unsent[key]
            try:
                if descriptors:
                    socket.send_fds(self._link, [message], list(descriptors), socket.MSG_NOSIGNAL)
                else:
                    self._link.send(message, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                self._room_wanted.set()
                return
            except OSError:
                pass  # the guard is dead: `run` sees it
            del self._unsent[key]
            _close(descriptors)

    # -- said by the guard ---------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take what the guard says until it ends; then `lost` is set."""
        task_status.started()
        if self._link is None:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_late)
            while await self._read(self._link):  # ends with the guard
                pass
            nursery.cancel_scope.cancel()
        for relay in self._relays.values():
            relay.note_end(-9, "")  # the kernel has ended it with its parent
        self._log.error("guard.lost")
        self.lost.set()

    async def _send_late(self) -> None:
        """Send what the queue had no room for; ends by cancellation."""
        assert self._link is not None
        while True:
            await self._room_wanted.wait()
            self._room_wanted = trio.Event()
            await trio.lowlevel.wait_writable(self._link)
            self._send_unsent()

    async def _read(self, link: socket.socket) -> bool:
        """Take one message; False where the guard has ended."""
        await trio.lowlevel.wait_readable(link)
        try:
            data, descriptors, _, _ = socket.recv_fds(link, protocol.MESSAGE_BYTES_MAX, protocol.DESCRIPTORS_MAX)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        if not data:
            return False
        kind, fields = protocol.decode(data)
        match kind:
            case protocol.HELLO:
                self._take_report(fields[0])
            case protocol.SPAWNED:
                token, pid = fields
                self._relays[token].note_start(pid, descriptors.pop())
            case protocol.ENDED:
                token, _pid, status, reason = fields
                if (relay := self._relays.pop(token, None)) is not None:
                    relay.note_end(status, reason)
            case protocol.RELOAD:
                end = socket.socket(fileno=descriptors.pop())
                self._heir_seen, self.reload_failure = True, ""
                try:
                    self._heirs_in.send_nowait(end)
                except trio.WouldBlock:
                    end.close()  # one is here already; the guard does not start two
            case protocol.RELOAD_FAILED:
                self.reloads_failed += 1
                self.reload_failure = (self._heir_seen and self.reload_failure) or fields[0]
                self._heir_seen = False
                self._log.error("reload.failed", reason=self.reload_failure)
            case protocol.FENCED:
                self._log.error("guard.fenced", election=fields[0])
        _close(tuple(descriptors))
        return True

    def _take_report(self, report: dict[str, Any]) -> None:
        self.report = report
        now_ms = boot_ms()
        for at_ms, event, detail in report["notes"]:
            self._log.warning(event, detail=detail, ms_ago=now_ms - at_ms)


def _raised(link: socket.socket) -> socket.socket:
    """Return the link under a high number, with a copy that nothing but the end of this process closes.

    A dying process' files are closed from the highest number down, and the guard knows by this one that no thread runs
    any more. (The order is the kernel's business; in any other the guard only waits until the process is dead.)
    """
    number = min(LINK_NUMBER, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 16)
    low = link.detach()
    raised = socket.socket(fileno=fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, number))
    fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, raised.fileno())
    os.close(low)
    raised.setblocking(False)
    return raised


def _close(descriptors: tuple[int, ...]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
