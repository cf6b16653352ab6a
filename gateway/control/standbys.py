"""Warm standbys, on the elected manager: the collector's ads go to every other manager that is alive, and all of them.

Three parts: the routes of the local relays (a standby that is silent or unfit is refused at once, so that it can't
stall this host's collector), priming (a standby that came back gets what was advertised while it was away), and the
inventory (what got lost all the same is asked for again, and what was withdrawn here goes there too).
"""

from collections.abc import Callable, Mapping
from typing import Any

import structlog
import trio

from gateway.config.settings import Backend, Peer, Server, Settings
from gateway.control.forwarding import Forwarding
from gateway.control.inventory import Inventory
from gateway.core.node import Node
from gateway.kernel.clock import boot_ms
from gateway.matchmaker.condor import CondorHost, ToolFailed
from gateway.matchmaker.prime import SETTLED_MS, prime, refresh
from gateway.wire.messages import Standing

# After taking over, the standbys lack what came between the last forward of the old leader and the first of this one.
PRIME_AFTER_MS = 2_000
PRIME_RETRY_MS = 2_000
PRIME_RETRY_MS_MAX = 60_000
PRIME_MS_MAX = 12_000  # a schedd answers after SCHEDD_MIN_INTERVAL, 5 s; asked twice
REFRESH_MS_MAX = 8_000  # a dead host does not answer; those that live have answered twice by then
NEVER_MS = 2**62
LOOK_MS = 20  # between two looks at what the standbys have said
IDLE_MS_MAX = 10_000  # nothing is due: look again all the same


class Standbys:
    """The other managers of a backend, as the elected one sees them."""

    def __init__(
        self, settings: Settings, backend: Backend, me: Peer, forwarding: Forwarding, host: CondorHost
    ) -> None:
        self._name = backend.name
        self._silent_ms = settings.lease_ms
        self._own = next(server for server in backend.servers if server.name == me.name)
        self._servers: tuple[Server, ...] = tuple(server for server in backend.servers if server.name != me.name)
        self._forwarding = forwarding
        self._open: dict[str, bool] = {}
        self._primed: dict[str, str] = {}  # standby -> collector instance that holds everything
        self._due_ms: dict[str, int] = {}  # standby -> when it is to be primed (again)
        self._delay_ms: dict[str, int] = {}
        self._schedds_from_s = 0.0  # of trio's clock: when schedds may be asked
        self._log = structlog.get_logger().bind(matchmaker=backend.name)
        self._refresh_due = False
        self._wanted = trio.Event()  # something may be due
        self._look_at_ms = 0
        self._node: Node | None = None  # while this manager is the elected one
        self._tell_primed: Callable[[tuple[str, ...]], None] = _nobody
        self._inventory = Inventory(
            self._own.endpoint, self._leads, self._prime_again, self._log, shared_port=host.shared_port
        )
        self.primes_total = 0
        self.primes_complete_total = 0
        self.refreshes_total = 0

    def status(self) -> dict[str, Any]:
        """Return what the elected manager does for each standby, and what that has; empty on the others."""
        return {
            server.name: {
                "forwarding": self._open.get(server.name, False),
                "primed": server.name in self._primed,
                **self._inventory.status_of(server.name),
            }
            for server in self._servers
            if self._open
        }

    def own_status(self) -> dict[str, Any]:
        """Return what the elected manager's own collector holds ({"ads": {kind: n}, "looked_ms_ago": n}), and counters.

        The first part is missing on the others, and before the first look.
        """
        return {
            **self._inventory.status(),
            "primes_total": self.primes_total,
            "primes_complete_total": self.primes_complete_total,
            "refreshes_total": self.refreshes_total,
            "ads_invalidated_total": self._inventory.invalidated_total,
            "censuses_total": self._inventory.looks_total,
            "censuses_failed_total": self._inventory.failed_total,
        }

    def refresh_soon(self) -> None:
        """Have the pool's daemons send their ads again: a gateway has died, and what it carried with it."""
        self._refresh_due = True
        self._wanted.set()

    def prime_soon(self) -> None:
        """Look at all standbys again: the collector has been told to reconfigure, and has connected anew."""
        if self._due_ms:
            self._due_again(boot_ms() + PRIME_AFTER_MS)
            self._wanted.set()

    def stop_forwarding(self) -> None:
        """Refuse this host's collector at every relay, now and until it is kept warm again."""
        self._node = None
        for server in self._servers:
            self._forwarding.set_server(f"view/{server.name}", None)
        self._open.clear()
        self._primed.clear()
        self._inventory.forget()

    async def keep_warm(self, node: Node | None, primed: Callable[[tuple[str, ...]], None]) -> None:
        """Follow the standbys' heartbeats, prime who needs it; ends by cancellation."""
        assert node is not None
        now_ms = boot_ms()
        for server in self._servers:
            standing = self._standing(node, server.name)
            if standing is not None and standing.warm:
                self._primed[server.name] = standing.instance  # warm under the old leader, but for the last second
            self._due_ms[server.name] = now_ms + PRIME_AFTER_MS
            self._delay_ms[server.name] = PRIME_RETRY_MS
        self._node, self._tell_primed = node, primed
        self._look_at_ms = 0
        try:
            self.look()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._prime_all, node)
                nursery.start_soon(self._inventory.run, self._reachable)
        finally:
            self._node = None

    def _leads(self) -> bool:
        """Tell whether this manager leads, now: its lease runs, and nobody has stopped it."""
        if self._node is None:
            return False
        election = self._node.elections[self._name]
        return election.serving_term is not None and boot_ms() < election.lease_until_ms

    def _reachable(self) -> tuple[Server, ...]:
        return tuple(server for server in self._servers if self._open.get(server.name, False))

    def _prime_again(self, standby: str) -> None:
        self._due_ms[standby] = min(self._due_ms[standby], boot_ms())
        self._wanted.set()

    def _standing(self, node: Node, standby: str) -> Standing | None:
        """Return what a standby says of itself; None where it has been silent for a lease."""
        heard = node.elections[self._name].ranking.heard.get(standby)
        if heard is None or boot_ms() - heard[1] > self._silent_ms:
            return None
        return heard[0]

    def look(self) -> None:
        """Look at what the standbys' heartbeats have said. To be called at every wake-up; takes microseconds.

        A dead one is refused within the lease and this node's own heartbeat.
        """
        now_ms = boot_ms()
        if self._node is None or now_ms < self._look_at_ms:
            return
        self._look_at_ms = now_ms + LOOK_MS
        for server in self._servers:
            standing = self._standing(self._node, server.name)
            alive = standing is not None and standing.fit
            if alive != self._open.get(server.name, False):
                self._open[server.name] = alive
                if alive:
                    settled_ms = max(SETTLED_MS, 2 * self._silent_ms)
                    self._schedds_from_s = trio.current_time() + settled_ms / 1000
                self._log.info("standby.forwarding", standby=server.name, open=alive)
                self._forwarding.set_server(f"view/{server.name}", server.endpoint if alive else None)
                self._wanted.set()
                self._inventory.sooner()
                if not alive:
                    # HTCondor has one back-off for all view hosts: the others have missed updates as well.
                    self._due_again(boot_ms() + PRIME_RETRY_MS)
            if standing is not None and self._primed.get(server.name, standing.instance) != standing.instance:
                del self._primed[server.name]  # its collector has been restarted, and is empty
                self._due_ms[server.name] = boot_ms()
                self._wanted.set()
        self._tell_primed(tuple(sorted(self._primed.values())))

    def _due_again(self, due_ms: int) -> None:
        for server in self._servers:
            self._due_ms[server.name] = min(self._due_ms[server.name], due_ms)

    async def _prime_all(self, node: Node) -> None:
        """Bring this collector up to date, then prime whoever is due, again and again; ends by cancellation."""
        self._refresh_due = True  # what was sent into the old leader's last moments is lost
        while True:
            if self._refresh_due:
                self._refresh_due = False
                await self._refresh()
            due = {}
            for server in self._servers:
                standing = self._standing(node, server.name)
                if standing is not None and standing.fit and boot_ms() >= self._due_ms[server.name]:
                    due[server.name] = (server, standing.instance)
            if due:
                await self._prime(due)
                self._look_at_ms = 0
                self.look()
                continue
            with trio.move_on_after(self._idle_s()):
                await self._wanted.wait()
            self._wanted = trio.Event()

    def _idle_s(self) -> float:
        """Return for how long nothing falls due by time alone."""
        now_ms = boot_ms()
        due_ms = [self._due_ms[name] for name, is_open in self._open.items() if is_open]
        return max(min((*due_ms, now_ms + IDLE_MS_MAX)) - now_ms, 1) / 1000

    async def _refresh(self) -> None:
        """Have the daemons send their ads again: they do not know what was lost on its way."""
        self.refreshes_total += 1
        try:
            report = await refresh(self._own.endpoint, timeout_ms=REFRESH_MS_MAX)
        except ToolFailed as failure:
            self._log.warning("collector.refresh-failed", reason=str(failure))
            return
        self._log.info(
            "collector.refreshed",
            daemons=report.total,
            silent=report.silent,
            asked=report.asked,
            failed=dict(report.failed),
            took_ms=report.took_ms,
        )

    async def _prime(self, due: Mapping[str, tuple[Server, str]]) -> None:
        """Prime some standbys at once; who is not complete then is due again, ever later."""
        standbys = {name: server.endpoint for name, (server, _) in due.items()}
        self.primes_total += 1
        try:
            report = await prime(
                self._own.endpoint, standbys, timeout_ms=PRIME_MS_MAX, schedds_from_s=self._schedds_from_s
            )
        except ToolFailed as failure:
            self._log.warning("standby.prime-failed", reason=str(failure))
            complete: Mapping[str, bool] = {}
        else:
            complete = report.complete
            self._log.info(
                "standby.primed",
                complete=dict(complete),
                lacking=dict(report.lacking),
                unreachable=dict(report.unreachable),
                ads=report.total,
                asked=report.asked,
                took_ms=report.took_ms,
            )
        self._inventory.sooner()
        for name, (_, instance) in due.items():
            if complete.get(name, False):
                self.primes_complete_total += 1
                self._primed[name] = instance
                self._due_ms[name], self._delay_ms[name] = NEVER_MS, PRIME_RETRY_MS
            else:
                self._due_ms[name] = boot_ms() + self._delay_ms[name]
                self._delay_ms[name] = min(2 * self._delay_ms[name], PRIME_RETRY_MS_MAX)


def _nobody(instances: tuple[str, ...]) -> None:
    """Tell nobody: this manager is not the elected one."""
