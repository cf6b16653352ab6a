"""The matchmaker as a service of its election: this host's negotiator runs while this manager leads, never else.

The lease is kept at its end by `kill`, which is one system call; everything gentler happens before. What stops is said
to have stopped (`ServingStopped`) only when the negotiator is dead and HTCondor can't start another.
"""

from collections.abc import Callable
from typing import Any

import structlog
import trio

from gateway.config.settings import Backend, OnPartition, Peer, Settings
from gateway.control.accounting import TOLD_MS, Accounting
from gateway.control.apart import Apart
from gateway.control.door import Door
from gateway.control.forwarding import Forwarding, view_port
from gateway.control.guard import Fencing
from gateway.control.hearing import Hearing
from gateway.control.inheritance import MatchmakerState
from gateway.control.prober import Prober
from gateway.control.pump import Pump
from gateway.control.standbys import Standbys
from gateway.control.swaps import GRACE_MS, Swaps, SwapUnsafe
from gateway.core.actions import Cause, FollowLeader
from gateway.core.events import Event, PrimedChanged, ResignationRequested, ServingStopped, StandingChanged
from gateway.core.node import Node
from gateway.core.timeline import Position
from gateway.kernel.clock import boot_ms
from gateway.kernel.inotify import FileWatch
from gateway.matchmaker.bystander import Bystander
from gateway.matchmaker.condor import CondorHost, discover
from gateway.matchmaker.first_acts import FirstActs
from gateway.matchmaker.journal import JournalRefused
from gateway.matchmaker.master import MasterMissing
from gateway.matchmaker.negotiator import SETTLE_MS, Negotiator, NegotiatorFailed
from gateway.matchmaker.pool_address import pool_address
from gateway.matchmaker.probe import ProbeFailed
from gateway.wire.messages import Standing
from gateway.wire.seal import Keyring

RETRY_S = 0.2  # between two tries to stop what did not stop
STAY_S = 1.0  # between two tries to start it while the cluster is paused: an administrator may be at work
PROBE_MS_MAX = 1_000  # a collector that takes longer is deaf to its pool as well
# A negotiator that dies makes this manager unfit for so long, doubled with each death: no churning (HTCondor's manual
# warns of it for a misconfigured primary).
COOL_OFF_MS_MIN, COOL_OFF_MS_MAX = 2_000, 300_000
CALM_MS = 60_000  # a negotiator that ran so long is not part of a series


class MatchmakerService:
    """One pool's matchmaker on one manager. Made by `open_matchmaker`; `node` and `pump` are set before `run`."""

    def __init__(
        self,
        *,
        settings: Settings,
        backend: Backend,
        me: Peer,
        host: CondorHost,
        accounting: Accounting,
        forwarding: Forwarding,
        post: Callable[[Event], None],
    ) -> None:
        self._settings = settings
        self._backend = backend
        self._me = me
        self._server = next(server for server in backend.servers if server.name == me.name)
        self._addresses = {
            bind.address for one in settings.frontends if one.backend == backend.name for bind in one.binds
        }
        self._host = host
        self._post = post
        self._accounting = accounting
        self._standbys = Standbys(settings, backend, me, forwarding, host)
        kind = Negotiator if backend.negotiator_on_elected else Bystander
        self._negotiator = kind(host, pool_address(settings, backend, self._server.endpoint, host))
        self._hearing = Hearing(settings, backend, self._tell)
        self._log = structlog.get_logger().bind(matchmaker=backend.name)
        self.node: Node | None = None
        self.pump: Pump | None = None
        self.on_phase: Callable[[int | None, str], None] = lambda term, phase: None  # how far a leadership has come
        self._first_acts = FirstActs(host.negotiator_log, FileWatch)
        self._prober: Prober | None = None
        # what the election wants
        self._term: int | None = None
        self._until_ms = 0
        self._at_once = False
        self._unconfirmed: int | None = None  # a term whose ServingStopped is owed
        self._changed = trio.Event()
        self._serving = trio.CancelScope()
        self._swaps = Swaps(self._negotiator, self._start_again)
        self._apart = Apart(backend, me, settings.lease_ms, lambda: self._swaps.swap(_nothing))
        # what this host can do
        self._instance = ""
        self._probes_good = 0
        self._probes_bad = 0
        self._collector_up = False
        self._collector_reason = "the collector has not been asked yet"
        self._warm_instance = ""
        self._cool_off_ms = COOL_OFF_MS_MIN
        self._again = False  # the negotiator of the present term has ended, and is to be started again
        self._shipping_term: int | None = None
        self._unfit_until_ms = 0
        self._told: tuple[Standing, str] | None = None
        self._told_ms = 0
        self._fresher = False  # than was told
        self._resumed = False
        self._leader: str | None = None
        self._last_stop = (0, 0, 0)  # of which term, when the negotiator had ended, when that was told

    @property
    def name(self) -> str:
        """Name of the backend and of its election."""
        return self._backend.name

    def holds(self) -> bool:
        """Tell whether this manager may act as the matchmaker, now."""
        return self._term is not None and boot_ms() < self._until_ms

    def status(self) -> dict[str, Any]:
        """Return this manager's part of the status document."""
        return {
            "negotiator_running": self._negotiator.running,
            "negotiator_pid": self._negotiator.pid,
            "negotiator_left_alone": self._negotiator.leaves_alone,
            "negotiator_swaps_total": self._swaps.total,
            "collector": "up" if self._collector_up else f"down ({self._collector_reason})",
            "collector_instance": self._instance,
            **self._standbys.own_status(),
            "standbys": self._standbys.status(),
            "accounting": self._accounting.status(),
            **self._apart.status(),
        }

    @property
    def accounting_position(self) -> Position:
        """How far the accounting is written by now, where this manager leads."""
        return self._accounting.position

    def lacking(self, standby: str, position: Position) -> str:
        """Say what a standby lacks that it needs to take over without a loss; "" for nothing.

        `position`: how much of the accounting counts; what is written after that, the end of the stream brings.
        """
        assert self.node is not None, "the core is known before any task runs"
        standing = self.node.elections[self.name].ranking.heard.get(standby)
        if self._backend.warm_standby and (standing is None or not standing[0].warm):
            return "its collector has not all of the pool's ads"
        return self._accounting.lacking(standby, position)

    def ended_to_told_ms(self, term: int) -> int:
        """Return how long it took from the end of a term's negotiator until the others were told; 0: not known."""
        of, ended_ms, told_ms = self._last_stop
        return told_ms - ended_ms if of == term else 0

    def fencing(self) -> Fencing:
        """Return what stops this host's negotiator for certain when this process can't do it any more."""
        master, negotiator = self._negotiator.held
        return Fencing(
            at_end=True,
            kills=(negotiator.pidfd,) if negotiator is not None and negotiator.pidfd is not None else (),
            hangups=(master.pidfd,) if master is not None and master.pidfd is not None else (),
            offspring=((master.pid, self._host.negotiator),) if master is not None else (),
            files=(self._negotiator.standby_file,),
            settle_ms=SETTLE_MS if self._negotiator.may_appear else 0,
        )

    def on_fencing_change(self, told: Callable[[], None]) -> None:
        """Have `told` called whenever `fencing` gives something else, before that something can act."""
        self._negotiator.on_change = told

    # -- Service -------------------------------------------------------------------------------------------------

    def start(self, term: int, until_ms: int) -> None:
        """Let the keeper start the negotiator."""
        self._term = self._unconfirmed = term
        self._until_ms, self._at_once, self._again = until_ms, False, False
        self._changed.set()

    def extend(self, until_ms: int) -> None:
        """Take the new end of the lease."""
        self._until_ms = until_ms

    def stop(self, term: int, cause: Cause, *, at_once: bool) -> None:
        """Let the keeper stop the negotiator; kill it here and now where the lease is over."""
        self._term, self._until_ms = None, 0
        self._at_once = self._at_once or at_once
        if at_once:
            self._negotiator.kill()
        self._standbys.stop_forwarding()
        self._serving.cancel()
        self._changed.set()

    def follow(self, change: FollowLeader) -> None:
        """Take a change of leader in any election."""
        if change.election == self.name:
            self._leader = change.leader
            self._accounting.follow(change.leader, change.term)
        elif change.leader is not None and change.election in self._addresses:
            # Another gateway carries the pool's updates now. Those that the old one took with it are lost, and those
            # that its kernel refused until its lease had ended.
            self._standbys.refresh_soon()

    def wake(self) -> None:
        """Look at what has been heard, and ask the collector if that is due. To be called at every wake-up."""
        self._standbys.look()
        if self._fresher and boot_ms() >= self._told_ms + TOLD_MS:
            self._tell()
        if self._leader is not None and self.node is not None:
            heard = self.node.elections[self.name].ranking.heard.get(self._leader)
            if heard is not None:
                self._accounting.heard(heard[0])
        if self._prober is not None:
            self._prober.wake()

    def keep(self) -> MatchmakerState:
        """Leave the negotiator as it is when `run` ends; return what the process that goes on with it needs."""
        self._negotiator.on_change = lambda: None
        return MatchmakerState(
            instance=self._instance,
            warm_instance=self._warm_instance,
            collector_up=self._collector_up,
            unfit_until_ms=self._unfit_until_ms,
            cool_off_ms=self._cool_off_ms,
        )

    async def resume(self, was: MatchmakerState, standing: Standing, term: int | None, until_ms: int) -> None:
        """Go on where an earlier process stopped, which served `term` (None: it did not); `run` resets nothing then.

        Raises:
            NegotiatorFailed, MasterMissing: this host's HTCondor is not as it was left.
        """
        self._instance, self._warm_instance = was.instance, was.warm_instance
        self._collector_up, self._probes_good = was.collector_up, self._server.rise
        self._unfit_until_ms, self._cool_off_ms = was.unfit_until_ms, was.cool_off_ms
        self._told = standing, ""
        self._resumed = True
        await self._accounting.resume(term)
        if term is None:
            await self._negotiator.resume_standby()
            return
        # Where the file was about to be replaced it still is: no negotiator starts on the old one.
        await self._negotiator.resume(self._view_hosts(), start=self._accounting.took_over(term))
        self.start(term, until_ms)

    # -- tasks ---------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Probe the collector, keep the negotiator as elected; ends by cancellation."""
        assert self.node is not None, "the core is known before any task runs"
        if not self._resumed:
            await self._negotiator.reset_at_start()
            await self._accounting.recover()
            await self._hearing.ask()
        async with trio.open_nursery() as nursery:
            await nursery.start(self._accounting.run, self._accounting_changed)
            nursery.start_soon(self._run_probes)
            nursery.start_soon(self._hearing.run)
            nursery.start_soon(self._keep)
            task_status.started()

    async def _keep(self) -> None:
        """Bring the negotiator to what the election wants, one step after the other."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            if self._term is not None:
                with trio.CancelScope() as self._serving:
                    if self._again:
                        await self._clear_away()
                    await self._serve(self._term)
            if self._unconfirmed is not None and self._term != self._unconfirmed:
                await self._confirm_stop(self._unconfirmed)

    async def _serve(self, term: int) -> None:
        """Serve `term` until `stop` cancels it."""
        if not self.holds():
            return
        try:
            await self._first_acts.mark()
            # Once a term: after that the file is this term's own, whatever becomes of its negotiator.
            await self._accounting.take_over(term, running=self._negotiator.running)
            if not self.holds():
                return
            await self._negotiator.start(self._view_hosts())
        except (NegotiatorFailed, MasterMissing) as error:
            self._fail_or_stay(f"the negotiator could not be started: {error}")
            await trio.sleep_forever()
        except (JournalRefused, OSError) as error:
            self._fail(f"the negotiator could not be started: {error}")
            await trio.sleep_forever()
        started_ms = boot_ms()
        self.on_phase(term, "negotiator_ms")
        self._warm_instance = self._instance  # from now on the pool's ads come here
        self._log.info("matchmaker.serving", term=term)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_negotiator, started_ms)
            nursery.start_soon(self._run_swaps)
            nursery.start_soon(
                self._first_acts.run,
                lambda: self.on_phase(term, "first_cycle_ms"),
                lambda: self.on_phase(term, "first_match_ms"),
            )
            if self._shipping_term != term:  # it goes on, whatever becomes of the negotiator
                self._accounting.lead(self._swaps.swap, self._fail)
                self._shipping_term = term
            self._again = False
            if self._settings.on_partition is OnPartition.SERVE:
                assert self.node is not None, "the core is known before any task runs"
                nursery.start_soon(self._apart.run, self.node)
            if self._backend.warm_standby:
                nursery.start_soon(self._standbys.keep_warm, self.node, self._primed)

    def _view_hosts(self) -> tuple[str, ...]:
        if not self._backend.warm_standby:
            return ()
        return tuple(
            f"127.0.0.1:{view_port(self._settings, server.name)}"
            for server in self._backend.servers
            if server.name != self._me.name
        )

    def _primed(self, instances: tuple[str, ...]) -> None:
        assert self.node is not None
        if instances != self.node.primed:
            self._post(PrimedChanged(instances))

    async def _watch_negotiator(self, started_ms: int) -> None:
        await self._swaps.negotiator_ended()
        if boot_ms() - started_ms >= CALM_MS:
            self._cool_off_ms = COOL_OFF_MS_MIN
        self._fail_or_stay("the negotiator has ended by itself: see its NegotiatorLog")

    def _fail_or_stay(self, reason: str) -> None:
        """Give the leadership up; but while the cluster is paused nobody could follow: be unfit, and try again here."""
        if self.node is None or not self.node.book.paused or self._term is None:
            self._fail(reason)
            return
        self._log.warning("matchmaker.failed-while-paused", reason=reason)
        self._unfit_until_ms = boot_ms() + round(STAY_S * 2000)
        self._tell(reason)
        self._again = True
        self._serving.cancel()
        self._changed.set()

    async def _clear_away(self) -> None:
        """Wait a moment, for HTCondor may be about to be started again; leave nothing of the negotiator that ended."""
        await trio.sleep(STAY_S)
        try:
            await self._negotiator.stop(GRACE_MS)
        except (NegotiatorFailed, MasterMissing) as error:
            self._fail_or_stay(f"the negotiator could not be stopped: {error}")
            await trio.sleep_forever()

    def _fail(self, reason: str) -> None:
        """Give the leadership up, and do not stand again at once."""
        if boot_ms() < self._unfit_until_ms:
            return  # of one failure two tasks may tell
        self._log.error("matchmaker.failed", reason=reason, cool_off_ms=self._cool_off_ms)
        self._unfit_until_ms = boot_ms() + self._cool_off_ms
        self._cool_off_ms = min(2 * self._cool_off_ms, COOL_OFF_MS_MAX)
        self._tell(reason)
        self._post(ResignationRequested(self.name, reason))

    async def _confirm_stop(self, term: int) -> None:
        """Stop the negotiator for certain, then say so. Only the end of the process ends the trying."""
        while True:
            try:
                await self._negotiator.stop(0 if self._at_once else GRACE_MS)
                break
            except (NegotiatorFailed, MasterMissing) as error:
                self._log.error("negotiator.stuck", reason=str(error))
                await trio.sleep(RETRY_S)
        ended_ms = boot_ms()
        await self._accounting.finish(at_once=self._at_once)
        self._unconfirmed = None
        self._last_stop = (term, ended_ms, boot_ms())
        self._post(ServingStopped(self.name, term))
        await self._accounting.bring_back()
        if self._term is not None:
            self._changed.set()

    async def _start_again(self) -> None:
        """Start the negotiator after a swap, if this manager still leads."""
        if not self.holds():
            await trio.sleep_forever()  # the stop is on its way
        await self._negotiator.start(self._view_hosts())
        self._standbys.prime_soon()  # to be told to reconfigure broke the collector's connections to them

    async def _run_swaps(self) -> None:
        try:
            await self._swaps.run()
        except (NegotiatorFailed, MasterMissing, SwapUnsafe) as error:
            self._fail(f"the negotiator could not be exchanged or started again: {error}")

    def announce_again(self) -> None:
        """Nothing to announce: the pool knows the address, and gateways know the leader from its heartbeats."""

    # -- fitness -------------------------------------------------------------------------------------------------

    async def _run_probes(self) -> None:
        """Ask the collector every `inter`: does its event loop run, and is it still the same process?"""
        assert self.pump is not None, "set before any task runs"
        self._prober = Prober(
            endpoint=self._server.endpoint,
            pump=self.pump,
            every_ms=self._server.inter_ms,
            lag_ms=min(self._settings.heartbeat_ms, self._server.inter_ms // 4),
            timeout_ms=min(PROBE_MS_MAX, max(self._server.inter_ms * 3, 100)),
            succeeded=self._probe_succeeded,
            failed=self._probe_failed,
            shared_port=self._host.shared_port,
        )
        with self._prober:
            try:
                await trio.sleep_forever()
            finally:
                self._prober = None

    def _probe_failed(self, failure: ProbeFailed) -> None:
        reason = str(failure)
        self._probes_good, self._probes_bad = 0, self._probes_bad + 1
        if self._probes_bad >= self._server.fall:
            if self._collector_up:
                self._log.warning("collector.down", reason=reason)
            self._collector_up, self._collector_reason = False, reason
        self._tell()

    def _probe_succeeded(self, instance: str) -> None:
        if instance != self._instance:
            self._log.info("collector.instance", instance=instance, before=self._instance)
            self._instance, self._probes_good = instance, 0
            self._hearing.restarted()
        self._probes_good, self._probes_bad = self._probes_good + 1, 0
        if self._probes_good >= self._server.rise and not self._collector_up:
            self._collector_up = True
            self._log.info("collector.up", instance=instance)
        self._tell()

    def _tell(self, reason: str = "") -> None:
        """Tell the core how this manager stands, where that has changed."""
        fit = self._collector_up and not self._hearing.reason and boot_ms() >= self._unfit_until_ms
        if not reason and not fit:
            reason = self._hearing.reason
        if not reason and not fit:
            reason = "it has failed a moment ago" if self._collector_up else self._collector_reason
        mine = self._accounting.freshness
        standing = Standing(self.name, fit, self._is_warm(), mine.term, mine.generation, self._instance, mine.records)
        self._fresher = False
        if self._told is None or self._told[0] != standing:
            if self._told is None or self._told[0].fit != fit:
                self._log.info("matchmaker.fitness", fit=fit, reason=reason)
            self._told, self._told_ms = (standing, reason), boot_ms()
            self._post(StandingChanged(standing, reason))

    def _accounting_changed(self) -> None:
        """Tell the core of fresher accounting, but not of every record."""
        self._fresher = True
        if boot_ms() >= self._told_ms + TOLD_MS:
            self._tell()

    def _is_warm(self) -> bool:
        """Tell whether this host's collector holds the pool's ads, by the leader's word or because it leads."""
        assert self.node is not None
        leader = self.node.elections[self.name].leader
        if leader is not None and self._instance and self._instance in self.node.primed_by.get(leader, ()):
            self._warm_instance = self._instance
        return bool(self._instance) and self._instance == self._warm_instance


async def _nothing() -> None:
    """Change nothing while no negotiator runs: the next one has no connection to anybody."""


async def open_matchmaker(
    *,
    settings: Settings,
    backend: Backend,
    me: Peer,
    keyring: Keyring,
    door: Door,
    forwarding: Forwarding,
    post: Callable[[Event], None],
) -> MatchmakerService:
    """Find this host's HTCondor and make the service on it. Changes nothing yet.

    Raises:
        CondorMissing: there is no usable HTCondor here.
    """
    host = await discover()
    accounting = Accounting(settings=settings, backend=backend, me=me, keyring=keyring, host=host, door=door)
    return MatchmakerService(
        settings=settings, backend=backend, me=me, host=host, accounting=accounting, forwarding=forwarding, post=post
    )
