"""The guard's loop: one control process, its relays, its wills. Restarts what dies, and makes dead what is frozen.

Rule: whoever is declared dead is made dead first. A process that thaws between the look at its lease and the system
call that it looked for can't be stopped in any other way.

Silence is judged by what the guard saw while it ran itself. After a late wake-up of its own (a suspended machine, a
whole tree stopped and continued, a busy CPU) it reads what control has said meanwhile, and begins to count anew.
"""

from __future__ import annotations

import _signal
import _socket
import posix
import select

from gateway.guard import process, protocol
from gateway.guard.charge import DRAIN_MAX, Control
from gateway.guard.executor import Executor
from gateway.guard.will import LATER_MS, Will
from gateway.kernel.clock import boot_ms
from gateway.kernel.realtime import CONTROL_PRIORITY

TYPE_CHECKING = False  # `typing` takes 9 ms and 2 MiB, for nothing at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

BACK_OFF_MS_MIN, BACK_OFF_MS_MAX = 100, 10_000
STEADY_MS = 60_000  # a control that lived this long begins the back-off anew
STOP_MS_MAX = 7_000  # control takes 5 s for a graceful end at most
NOTES_MAX = 32  # what the next control is told of the past; the oldest go first
IDLE_MS = 60_000


class Guard:
    """The parent of a node's processes. `command` starts control; `warnings` are what it may tell an operator."""

    def __init__(self, command: list[str], warnings: list[str]) -> None:
        self._command = command
        self._warnings = warnings
        self._executor = Executor(self._fenced)
        self._poll = select.poll()
        self._watched: dict[int, Callable[[], None]] = {}
        self._control: Control | None = None  # the one that acts
        self._coming: Control | None = None  # the one that is about to take over from it
        self._relays: dict[int, tuple[int, int]] = {}  # pidfd -> (token, pid)
        self._start_ms: int | None = boot_ms()  # when the next control is started
        self._back_off_ms = BACK_OFF_MS_MIN
        self._stop_ms: int | None = None  # until when control may take to end gracefully
        self._status: int | None = None  # with which the guard itself ends
        self._was_ready = False
        self._reload_wanted = False
        self._notes: list[tuple[int, str, str]] = []  # (when on CLOCK_BOOTTIME, event, detail)
        self._restarts = 0
        self._kills = {"frozen": 0, "late": 0, "hung": 0}
        self._lates = 0  # of the controls before this one
        self._leaving: list[tuple[Control, int]] = []  # has handed over; until when it may take to end
        self._signals, self._wake = _wake_on_signals()
        self._watch(self._signals.fileno(), self._signalled)

    def run(self) -> int:
        """Guard until control has ended for good; return the exit status of the node."""
        while self._status is None or self._executor.busy:
            wait_ms = self._wait_ms()
            planned_ms = boot_ms() + wait_ms
            found = self._poll.poll(wait_ms)
            self._doubt_myself(boot_ms(), planned_ms)
            for descriptor, _ in found:
                if (handle := self._watched.get(descriptor)) is not None:
                    handle()
            if (control := self._control) is not None and control.armed and not control.link_ended:
                self._read(control)
            self._keep_time(boot_ms())
        for pidfd in self._relays:
            process.send(pidfd, _signal.SIGKILL)
        return self._status

    def report(self) -> dict[str, Any]:
        """Return what a new control is told: fields of `status`, and notes for its log."""
        return {
            "pid": posix.getpid(),
            "warnings": tuple(self._warnings),
            "restarts": self._restarts,
            "kills": dict(self._kills),
            "lates": self._lates,
            "letters": self._executor.posted,
            "notes": tuple(self._notes),
        }

    # -- time ----------------------------------------------------------------------------------------------------

    def _wait_ms(self) -> int:
        """Return how long nothing will happen by time alone."""
        now_ms = boot_ms()
        moments = [now_ms + IDLE_MS]
        if self._executor.busy:
            moments.append(now_ms + LATER_MS)
        if self._start_ms is not None:
            moments.append(self._start_ms)
        for control in (self._control, self._coming):
            if control is not None and control.killed is None:
                moments.append(control.look_ms(now_ms))
        moments += [max(until_ms, now_ms + LATER_MS) for _, until_ms in self._leaving]
        if (control := self._control) is not None and control.killed is None:
            moments += [will.until_ms for will in control.wills.values() if will.at_end and will.struck_ms is None]
            if self._stop_ms is not None:
                moments.append(self._stop_ms)
        return max(min(moments) - now_ms, 0)

    def _doubt_myself(self, now_ms: int, planned_ms: int) -> None:
        control = self._control
        if control is not None and now_ms - planned_ms > max(control.dead_ms // 2, 1):
            control.heard(now_ms)

    def _keep_time(self, now_ms: int) -> None:
        self._executor.go_on(now_ms, ending=self._status is not None)
        for left, until_ms in self._leaving:
            if now_ms >= until_ms:
                process.send(left.pidfd, _signal.SIGKILL)
        if self._start_ms is not None and now_ms >= self._start_ms and self._status is None:
            self._start_ms = None
            self._control = self._start()
        if (coming := self._coming) is not None and not coming.ready and coming.judge(now_ms):
            self._kill(coming, "hung", now_ms)
        control = self._control
        if control is None or control.killed is not None:
            return
        for will in list(control.wills.values()):
            if will.at_end and will.struck_ms is None and now_ms >= will.until_ms:
                self._executor.begin(will, now_ms)  # whatever a hanging thread of control makes of the end of its lease
        cause = "hung" if self._stop_ms is not None and now_ms >= self._stop_ms else control.judge(now_ms)
        if cause is not None:
            self._kill(control, cause, now_ms)

    # -- control -------------------------------------------------------------------------------------------------

    def _start(self, *heir: _socket.socket) -> Control | None:
        """Start a control; `heir` is its end of the socket pair to the one that it takes over from."""
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        argv = [*self._command, "--guarded", str(theirs.fileno())]
        for end in heir:
            argv += ["--adopt", str(end.fileno())]
        try:
            pid, pidfd = process.spawn(argv, [end.fileno() for end in (theirs, *heir)])
        except OSError as error:
            ours.close()
            self._note("guard.control-not-started", str(error))
            if heir:
                self._reload_failed(f"the new process can't be started: {error}")
            else:
                self._start_later()
            return None
        finally:
            theirs.close()
        control = Control(pid, pidfd, ours, boot_ms())
        self._watch(pidfd, lambda: self._ended(control))
        self._watch(ours.fileno(), lambda: self._read(control))
        control.send(protocol.HELLO, self.report())
        control.told = tuple(self._notes)
        if not heir:
            self._forget_told(control)
        return control

    def _start_later(self) -> None:
        self._start_ms = boot_ms() + self._back_off_ms
        self._back_off_ms = min(2 * self._back_off_ms, BACK_OFF_MS_MAX)

    def _kill(self, control: Control, cause: str, now_ms: int) -> None:
        """Make `control` dead; its wills follow when it is. What takes microseconds is done at once."""
        process.send(control.pidfd, _signal.SIGKILL)
        process.hasten(control.pid, CONTROL_PRIORITY)
        control.killed = cause
        self._kills[cause] += 1
        self._executor.strike(control.wills.values(), now_ms)
        self._note(f"guard.killed-{cause}", f"pid {control.pid}, silent for {now_ms - control.heard_ms} ms")

    def _ended(self, control: Control) -> None:
        """`control` is dead, all of it: do its wills, then decide what follows."""
        self._read(control, limit=1_000_000)
        if (coming := self._coming) is not None:
            self._read(coming)  # it has told us before the old one ended; both may be found in one turn
        now_ms = boot_ms()
        if control is self._control:
            self._bequeath(control, now_ms)
        else:
            for will in control.wills.values():
                will.close()
        self._unwatch(control.link.fileno())
        self._unwatch(control.pidfd)
        control.close()
        status = process.collect_ended(control.pid)
        self._lates += control.lates
        self._decide(control, status, now_ms)

    def _decide(self, control: Control, status: int, now_ms: int) -> None:
        if control is self._coming:
            self._coming = None
            self._reload_failed(f"the new process ended with status {status}")
            return
        if control is not self._control:
            self._leaving = [(each, until_ms) for each, until_ms in self._leaving if each is not control]
            return
        self._control = None
        if self._coming is not None:
            process.send(self._coming.pidfd, _signal.SIGKILL)  # there is nobody any more from whom to take over
        if self._stop_ms is not None:
            # Killed by our own SIGTERM: it had not come so far as to hold anything.
            self._status = 0 if status in (0, -_signal.SIGTERM) else _as_a_shell_says(status)
        elif status == 0 or (status > 0 and not self._was_ready):
            self._status = status  # it has ended by itself, or refused to start
        else:
            self._note("guard.control-ended", f"pid {control.pid}, status {status}")
            self._restarts += 1
            if now_ms - control.begun_ms >= STEADY_MS:
                self._back_off_ms = BACK_OFF_MS_MIN
            self._start_later()

    def _bequeath(self, control: Control, now_ms: int) -> None:
        wills = list(control.wills.values())
        control.wills.clear()
        self._executor.bequeath(wills, now_ms)

    def _fenced(self, election: str) -> None:
        if self._control is not None:
            self._control.send(protocol.FENCED, election)

    # -- messages ------------------------------------------------------------------------------------------------

    def _read(self, control: Control, limit: int = DRAIN_MAX) -> None:
        for kind, fields, descriptors in control.read(limit):
            self._take(control, kind, fields, descriptors)
        if not control.link_ended:
            return
        self._unwatch(control.link.fileno())
        if control is not self._control or not control.wills:
            return
        if process.exiting(control.pid):
            # Its files are closed, so not one of its threads runs our code any more. To wait until it is dead as well
            # would take 10 to 40 ms: the kernel lets every reader finish before it takes a packet socket away.
            control.killed = control.killed or "ended"
            self._bequeath(control, boot_ms())
        elif control.killed is None:  # it lives, and can't be heard any more
            process.send(control.pidfd, _signal.SIGKILL)
            control.killed = "unlinked"
            self._executor.strike(control.wills.values(), boot_ms())
        # Without a will it is on its way to a clean end, and has the time of any silent control.

    def _take(self, control: Control, kind: int, fields: tuple[Any, ...], descriptors: list[int]) -> None:
        if kind == protocol.BEAT:
            control.heard(fields[0])
        elif kind == protocol.READY:
            control.dead_ms, control.late_ms = fields
            control.heard(boot_ms())
            control.ready = self._was_ready = True
            self._listen(control)
            if self._reload_wanted:
                self._reload()
            self._executor.forget_bequeathed()  # the new control has seen to it itself, and may write other files
        elif kind == protocol.WILL:
            will = Will(fields, descriptors)
            if (old := control.wills.get(will.election)) is not None:
                will.letters = old.letters
                old.close()
            control.wills[will.election] = will
            self._listen(control)
        elif kind == protocol.LETTERS:
            if (will_or_none := control.wills.get(fields[0])) is not None:
                will_or_none.letters = fields[1]
        elif kind == protocol.EXTEND:
            control.heard(fields[2])
            if (will_or_none := control.wills.get(fields[0])) is not None:
                will_or_none.until_ms = fields[1]
        elif kind == protocol.CLEAR:
            if (will_or_none := control.wills.pop(fields[0], None)) is not None:
                will_or_none.close()
            self._listen(control)
        elif kind == protocol.SPAWN_RELAY:
            self._spawn_relay(control, fields[0], descriptors[0])
        elif kind == protocol.TAKEN_OVER:
            self._taken_over(control, boot_ms())

    def _spawn_relay(self, control: Control, token: int, end: int) -> None:
        argv = [self._command[0], "-P", "-m", "gateway.relay", str(end)]
        try:
            pid, pidfd = process.spawn(argv, [end])
        except OSError as error:
            control.send(protocol.ENDED, token, 0, 127, str(error))
            return
        finally:
            posix.close(end)
        self._relays[pidfd] = token, pid
        self._watch(pidfd, lambda: self._relay_ended(pidfd))
        control.send(protocol.SPAWNED, token, pid, descriptor=pidfd)

    def _relay_ended(self, pidfd: int) -> None:
        token, pid = self._relays.pop(pidfd)
        self._unwatch(pidfd)
        posix.close(pidfd)
        status = process.collect(pid)
        if self._control is not None:
            self._control.send(protocol.ENDED, token, pid, status, "")

    # -- signals -------------------------------------------------------------------------------------------------

    def _signalled(self) -> None:
        try:
            numbers = self._signals.recv(256)
        except BlockingIOError:
            return
        process.reap()
        if _signal.SIGTERM in numbers or _signal.SIGINT in numbers:
            self._stop(boot_ms())
        elif _signal.SIGHUP in numbers:
            self._reload()

    def _stop(self, now_ms: int) -> None:
        if self._stop_ms is not None:
            return
        self._stop_ms = now_ms + STOP_MS_MAX
        if self._coming is not None:
            process.send(self._coming.pidfd, _signal.SIGKILL)
        if self._control is not None:
            process.send(self._control.pidfd, _signal.SIGTERM)
        else:
            self._status = 0

    # -- taking over ---------------------------------------------------------------------------------------------

    def _reload(self) -> None:
        """Start a control that takes over from the present one: they talk through a socket pair of their own."""
        old = self._control
        if old is None or not old.ready or old.killed is not None or self._coming is not None:
            self._reload_wanted = True  # as soon as there is somebody to take over from
            return
        self._reload_wanted = False
        if self._stop_ms is not None:
            return
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            self._coming = self._start(theirs)
            if self._coming is not None:
                old.send(protocol.RELOAD, descriptor=ours.fileno())
        finally:
            ours.close()
            theirs.close()

    def _reload_failed(self, reason: str) -> None:
        if self._control is not None:
            self._control.send(protocol.RELOAD_FAILED, reason)

    def _taken_over(self, control: Control, now_ms: int) -> None:
        """Act for `control` from now on; what the old one had left as its wills is void."""
        if control is not self._coming:
            return
        old, self._control, self._coming = self._control, control, None
        control.heard(now_ms)
        self._forget_told(control)
        if old is not None:
            for will in old.wills.values():
                will.close()
            old.wills.clear()
            self._leaving.append((old, now_ms + STOP_MS_MAX))

    # -- descriptors ---------------------------------------------------------------------------------------------

    def _watch(self, descriptor: int, handle: Callable[[], None]) -> None:
        self._watched[descriptor] = handle
        self._poll.register(descriptor, select.POLLIN)

    def _listen(self, control: Control) -> None:
        """Be woken by what `control` says, or only by the end of its link: see `Control.armed`."""
        if control.link.fileno() in self._watched:
            self._poll.modify(control.link.fileno(), 0 if control.armed else select.POLLIN)

    def _unwatch(self, descriptor: int) -> None:
        if self._watched.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def _forget_told(self, control: Control) -> None:
        """Keep no note that `control`, which acts, has been told: a successor that fails may take none with it."""
        self._notes = [note for note in self._notes if note not in control.told]
        control.told = ()

    def _note(self, event: str, detail: str) -> None:
        self._notes = [*self._notes[1 - NOTES_MAX :], (boot_ms(), event, detail)]


def _wake_on_signals() -> tuple[_socket.socket, _socket.socket]:
    """Return a socket from which the numbers of signals can be read, and its other end, to be kept."""
    woken, wake = _socket.socketpair()
    woken.setblocking(False)
    wake.setblocking(False)
    _signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    for number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGCHLD):
        _signal.signal(number, lambda number, frame: None)
    return woken, wake


def _as_a_shell_says(status: int) -> int:
    return status if status >= 0 else 128 - status
