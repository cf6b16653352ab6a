"""The negotiator of this host: runs while this manager is elected, at no other time.

Rule: "stopped" is said only when its process is dead and condor_master can't start another. Who needs it dead at once
calls `kill`, which waits for nothing, and then `stop`.

The means: the role's file of this node puts NEGOTIATOR into DAEMON_LIST, SIGHUP makes condor_master obey. One SIGHUP
covers the negotiator and the collector's view hosts (src/condor_master.V6/master.cpp, main_config: daemons that are no
longer listed are stopped, the running ones told to reconfigure, the new ones started).
"""

import enum
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path

import structlog
import trio

from gateway.matchmaker import nodefile
from gateway.matchmaker.condor import CondorHost, ToolFailed, run_tool
from gateway.matchmaker.master import Held, Master, MasterMissing, MasterReason, find_master, processes
from gateway.matchmaker.pool_address import PoolAddress

log = structlog.get_logger()

# From SIGHUP to the process: 20 to 60 ms; a master that starts a slow daemon meanwhile needs more, and one in a guest
# without hardware virtualisation took up to 4 s where it had half a processor, and more than 5 s where it had less.
START_MS_MAX = 15_000
POLL_MS = 2  # /proc has no events for a stranger's children; one look costs some 20 us, on a slow host fifty times that
KILLED_MS_MAX = 2_000  # from SIGKILL to the end: a process in an uninterruptible read (NFS) can take this and longer
# After a SIGHUP of which nothing shows: as long as a negotiator that an earlier SIGHUP had ordered may still appear.
# A master handles SIGHUP within some 30 ms.
SETTLE_MS = 500
# How soon condor_master starts a daemon again that has ended: 10 s by default, and never below this (masterDaemon.cpp,
# daemon::NextStart: whole seconds, MASTER_BACKOFF_CEILING is at least 1). Until then a SIGHUP takes it back.
RESTART_MS_MIN = 1_000
CONFIG_MS_MAX = 10_000  # one condor_config_val


class NegotiatorReason(enum.StrEnum):
    """Why the negotiator is not as ordered. Stable names: they are metric labels."""

    DID_NOT_START = "did-not-start"
    DID_NOT_END = "did-not-end"  # SIGKILL sent, the process still there: nobody else may start one yet
    FILE_NOT_WRITTEN = "file-not-written"
    LISTED_ELSEWHERE = "listed-elsewhere"  # HTCondor's own configuration starts a negotiator at boot
    FILE_NOT_READ = "file-not-read"  # HTCondor does not read the node's file, or another one overrules it
    CONFIG_UNREADABLE = "config-unreadable"


class NegotiatorFailed(Exception):  # noqa: N818 (an outcome, not an error of this program)
    """The negotiator is not as ordered. The message is for the operator."""

    def __init__(self, reason: NegotiatorReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class Negotiator:
    """The one negotiator that this host may run. Not to be called by two tasks at once, but for `kill`."""

    leaves_alone = False  # whether it is HTCondor's own affair; see `bystander`

    def __init__(
        self, host: CondorHost, address: PoolAddress | None = None, role_file: str = nodefile.ROLE_FILE
    ) -> None:
        self._host = host
        self._address = address  # where the pool finds it; None: at this host's own address
        self._standing = nodefile.path(host.config_dir)  # includes the other, in every role
        self._file = role_file
        self._master: Master | None = None
        self._process: Held | None = None
        self._written = ""  # what the role's file says, where this object wrote it
        self._may_appear = True  # an earlier order may have started one whose process has not been seen
        self.on_change: Callable[[], None] = lambda: None  # called when `held`, or `may_appear`, is another one
        self._ended_at = -math.inf  # when the one that was held was last known to have ended just then (monotonic)

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int | None:
        """Its process, None where there is none."""
        return self._process.pid if self._process is not None and self._process.running else None

    @property
    def held(self) -> tuple[Master | None, Held | None]:
        """The condor_master and the negotiator that are held: who must end them without this object needs both."""
        return self._master, self._process

    @property
    def may_appear(self) -> bool:
        """Whether a negotiator has been ordered whose process has not been seen."""
        return self._may_appear

    @property
    def standby_file(self) -> tuple[str, str]:
        """Path and text of the role's file with which condor_master starts no negotiator."""
        return self._file, nodefile.render(negotiator=False, view_hosts=())

    async def reset_at_start(self) -> None:
        """Bring this host to standby, whatever an earlier life of the node left: returns when no negotiator runs.

        HTCondor need not be running: it then finds the file when it starts.

        Raises:
            NegotiatorFailed: FILE_NOT_WRITTEN, LISTED_ELSEWHERE, FILE_NOT_READ, CONFIG_UNREADABLE, DID_NOT_END.
            MasterMissing: SEVERAL; the file is written.
        """
        self._may_appear = True
        await self._write(negotiator=False, view_hosts=())  # first: no other order may be found by the next
        await self._write_standing()
        await self._check_configuration()
        await self.stop(grace_ms=0)
        await self._end_orphans()

    async def start(self, view_hosts: tuple[str, ...]) -> None:
        """Start it, and the collector's forwarding to `view_hosts` ("address:port"): returns when its process exists.

        Where it runs already, only the forwarding changes: the collector then connects to every standby anew, also to
        those that were well. After any failure, and on cancellation, `stop` is due.

        Raises:
            NegotiatorFailed: FILE_NOT_WRITTEN, DID_NOT_START.
            MasterMissing: condor_master does not run.
        """
        started = time.monotonic()
        if self.running and self._written == self._render(negotiator=True, view_hosts=view_hosts):
            return
        master = await self._hold_master()
        self._may_appear = not self.running
        self.on_change()  # before anything is ordered
        await self._write(negotiator=True, view_hosts=view_hosts)
        master.reconfigure()
        if self.running:
            return
        if not await _until(lambda: self._adopt(master), START_MS_MAX):
            text = f"condor_master (pid {master.pid}) started no negotiator within {START_MS_MAX} ms: see its MasterLog"
            raise NegotiatorFailed(NegotiatorReason.DID_NOT_START, text)
        self._may_appear = False
        self.on_change()
        log.info("negotiator.started", pid=self.pid, took_ms=_since_ms(started))

    async def resume(self, view_hosts: tuple[str, ...], *, start: bool) -> None:
        """Go on with the negotiator that a process before this one has started; `start` it where it has ended.

        Raises:
            NegotiatorFailed, MasterMissing: as `start`.
        """
        await self._write_standing()
        if self._adopt(await self._hold_master()):
            self._written = await trio.to_thread.run_sync(_read, self._file)
            self._may_appear = False
        if start:
            await self.start(view_hosts)

    async def resume_standby(self) -> None:
        """Go on where a process before this one has confirmed that no negotiator runs here.

        Raises:
            NegotiatorFailed: FILE_NOT_WRITTEN.
        """
        await self._write_standing()
        self._written = await trio.to_thread.run_sync(_read, self._file)
        self._may_appear = False

    async def stop(self, grace_ms: int) -> None:
        """Stop it: by condor_master first, after `grace_ms` by SIGKILL. Returns when it is dead and stays dead.

        Raises:
            NegotiatorFailed: FILE_NOT_WRITTEN (it is killed all the same), DID_NOT_END.
            MasterMissing: SEVERAL.
        """
        started = time.monotonic()
        try:
            await self._write(negotiator=False, view_hosts=())
        except NegotiatorFailed:
            self.kill()  # the file still lists it: condor_master starts it again after its back-off
            raise
        if not self.running and time.monotonic() - self._ended_at > RESTART_MS_MIN / 1000:
            self._may_appear = True  # it ended some time ago: condor_master may be about to start it again
        master = await self._order_no_negotiator()
        if master is not None and not self.running:
            self._adopt(master)
        await self._await_end(grace_ms)
        if master is not None and self._may_appear:
            await self._end_latecomers(master)
        self._may_appear = False
        log.info("negotiator.stopped", took_ms=_since_ms(started))

    def kill(self) -> None:
        """Kill it: microseconds, to be called at the end of a lease. `stop` must follow, within seconds.

        Killed before the file has changed, condor_master starts it again after MASTER_NEGOTIATOR_BACKOFF_CONSTANT + 1
        (10 s by default); the SIGHUP of `stop` takes that restart back.
        """
        if not self.running and self._master is not None:
            self._adopt(self._master)  # `start` may have been cancelled before it saw the process
        if self._process is not None and self._process.signal(signal.SIGKILL):
            self._ended_at = time.monotonic()
            log.warning("negotiator.killed", pid=self._process.pid)

    async def wait_exit(self) -> None:
        """Return when its process has ended, whoever ended it; at once where none is held."""
        process = self._process
        if process is None:
            await trio.lowlevel.checkpoint()
            return
        lived = process.running
        await process.wait_exit()
        if lived:
            self._ended_at = time.monotonic()

    def close(self) -> None:
        """Let go of the processes; the negotiator is left as it is."""
        for held in (self._process, self._master):
            if held is not None:
                held.close()
        self._process = self._master = None

    async def _write(self, *, negotiator: bool, view_hosts: tuple[str, ...]) -> None:
        if negotiator and self._address is not None:
            await self._write_address(self._address)
        text = self._render(negotiator=negotiator, view_hosts=view_hosts)
        self._written = ""  # until the write is known to have succeeded, nobody knows what stands there
        await self._put(self._file, text)
        self._written = text

    async def _write_standing(self) -> None:
        text = nodefile.render_standing(self._file)
        if await trio.to_thread.run_sync(_read, self._standing) != text:
            await self._put(self._standing, text)

    async def _put(self, file: str, text: str) -> None:
        try:
            # Shielded: half an order is worse than a late cancellation. A file system that hangs is the guard's case.
            await trio.to_thread.run_sync(nodefile.write, file, text)
        except OSError as error:
            detail = f"{file} cannot be written: {error.strerror or error}"
            raise NegotiatorFailed(NegotiatorReason.FILE_NOT_WRITTEN, detail) from None

    def _render(self, *, negotiator: bool, view_hosts: tuple[str, ...]) -> str:
        return nodefile.render(negotiator=negotiator, view_hosts=view_hosts, address=self._address)

    async def _write_address(self, address: PoolAddress) -> None:
        try:
            await trio.to_thread.run_sync(nodefile.write, address.file, address.text)
        except OSError as error:
            # A negotiator that only some tools can't reach is better than none: this is all that the file is for.
            log.warning("negotiator.address_not_written", file=address.file, reason=error.strerror or str(error))
            self._address = None

    async def _hold_master(self) -> Master:
        if self._master is None or not self._master.running:
            if self._master is not None:
                self._master.close()
                self._master = None
            self._master = await find_master(self._host)
        return self._master

    async def _order_no_negotiator(self) -> Master | None:
        """Send SIGHUP; return the master, None where none runs: then there is nobody who could start a negotiator."""
        for _ in range(2):  # the master may end between being found and being signalled: then look once more
            try:
                master = await self._hold_master()
                master.reconfigure()
            except MasterMissing as missing:
                if missing.reason is MasterReason.SEVERAL:
                    raise
                continue
            return master
        return None

    def _adopt(self, master: Master) -> bool:
        """Hold the master's negotiator; False where it has none."""
        pid = master.child(self._host.negotiator)
        process = Held.open(pid, self._host.negotiator) if pid is not None else None
        if process is None:
            return False
        if self._process is not None:
            self._process.close()
        self._process = process
        return True

    async def _await_end(self, grace_ms: int) -> None:
        process = self._process
        if process is None:
            return
        with trio.move_on_after(grace_ms / 1000):
            await process.wait_exit()
        if process.running:
            self.kill()
            with trio.move_on_after(KILLED_MS_MAX / 1000):
                await process.wait_exit()
        if process.running:
            text = f"the negotiator (pid {process.pid}) lives {KILLED_MS_MAX} ms after SIGKILL: is its disk hung?"
            raise NegotiatorFailed(NegotiatorReason.DID_NOT_END, text)
        process.close()
        self._process = None

    async def _end_latecomers(self, master: Master) -> None:
        """End what an earlier SIGHUP ordered and nobody has seen: watch until it can no longer come."""
        deadline = trio.current_time() + SETTLE_MS / 1000
        while (left_s := deadline - trio.current_time()) > 0 and master.running:
            if await _until(lambda: self._adopt(master), int(left_s * 1000)):
                log.warning("negotiator.latecomer", pid=self.pid)
                await self._await_end(grace_ms=0)
                master.signal(signal.SIGHUP)

    async def _end_orphans(self) -> None:
        """End negotiators whose master is gone: a killed master's children live on until they miss it."""
        masters = await trio.to_thread.run_sync(processes, self._host.master)
        for pid, parent in (await trio.to_thread.run_sync(processes, self._host.negotiator)).items():
            orphan = Held.open(pid, self._host.negotiator) if parent not in masters else None
            if orphan is not None:
                log.warning("negotiator.orphan", pid=pid, parent=parent)
                self._process = orphan
                await self._await_end(grace_ms=0)

    async def _check_configuration(self) -> None:
        """See that HTCondor reads the node's file, and that nothing else of its configuration lists a negotiator."""
        marker = f"$(COLLECTOR.{nodefile.SESSION_NAME}:)"
        try:
            answer = await run_tool("condor_config_val", "-macro", marker, "$(DAEMON_LIST:)", timeout_ms=CONFIG_MS_MAX)
        except ToolFailed as error:
            raise NegotiatorFailed(NegotiatorReason.CONFIG_UNREADABLE, str(error)) from None
        session, daemons = (*answer.splitlines(), "", "")[:2]
        if session.strip() != str(nodefile.SESSION_S):
            text = f"{self._standing} sets {marker[2:-2]} to {nodefile.SESSION_S}, and HTCondor has "
            text += f"{session.strip()!r}: remove the line that overrules it "
            text += "(condor_config_val -verbose shows where it stands)"
            raise NegotiatorFailed(NegotiatorReason.FILE_NOT_READ, text)
        if not self.leaves_alone and "NEGOTIATOR" in daemons.upper().replace(",", " ").split():
            text = f"HTCondor's DAEMON_LIST is {daemons.strip()!r}: remove NEGOTIATOR from it "
            text += "(condor_config_val -verbose DAEMON_LIST shows where it stands); the elected manager gets it"
            raise NegotiatorFailed(NegotiatorReason.LISTED_ELSEWHERE, text)


async def _until(condition: Callable[[], bool], limit_ms: int) -> bool:
    """Return whether `condition` came true within `limit_ms`, asking every POLL_MS, and ever more rarely."""
    started = trio.current_time()
    while not condition():
        waited_s = trio.current_time() - started
        if waited_s >= limit_ms / 1000:
            return False
        await trio.sleep(max(POLL_MS / 1000, waited_s / 20))
    return True


def _read(file: str) -> str:
    try:
        return Path(file).read_text()
    except OSError:
        return ""


def _since_ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
