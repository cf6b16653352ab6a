"""Advertising: the elected manager tells the pool of all nodes of the cluster, an ad each, and again when that changes.

Rule: who does not lead sends nothing, and what can't be sent is tried again at the next turn, and said once.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import structlog
import trio

from gateway import __version__
from gateway.config.settings import Backend, Endpoint, Settings
from gateway.control.history import History
from gateway.core.node import Node
from gateway.kernel.clock import boot_ms
from gateway.matchmaker.condor import ToolFailed
from gateway.matchmaker.gateway_ads import LIFETIME_S, MY_TYPE, Ad, name_of, remove_others, send_ads

EVERY_S: Final = 60.0
LOOK_S: Final = 1.0
HEARD_MS: Final = 10_000  # a node that was not heard for so long is said to be down


class Advertising:
    """The ads of one pool.

    Args:
        settings: the cluster.
        backend: the pool's managers.
        collector: this manager's own.
        node: who leads what, and who is heard.
        history: since when, and why.
        leads: whether this manager may act as the matchmaker, now.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        backend: Backend,
        collector: Endpoint,
        node: Node,
        history: History,
        leads: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._backend = backend
        self._collector = collector
        self._node = node
        self._history = history
        self._leads = leads
        self._sent: tuple[Ad, ...] = ()
        self._cleared = False  # of nodes that are no more, in this leadership
        self._failed = False
        self._log = structlog.get_logger().bind(matchmaker=backend.name)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send while this manager leads, until cancelled."""
        task_status.started()
        due_ms = 0
        while True:  # ends by cancellation
            if not self._leads():
                self._sent, self._cleared = (), False
            else:
                ads = self.ads()
                if ads != self._sent or boot_ms() >= due_ms:
                    await self._send(ads)
                    due_ms = boot_ms() + round(EVERY_S * 1000)
            await trio.sleep(LOOK_S)

    async def _send(self, ads: tuple[Ad, ...]) -> None:
        self._sent = ads  # whatever becomes of it: a collector that refuses is not asked every second
        try:
            if not self._cleared:
                await remove_others(self._collector, self._settings.cluster, self._node.voters)
                self._cleared = True
            await send_ads(self._collector, ads)
        except ToolFailed as failure:
            if not self._failed:
                self._log.warning("advertise.failed", reason=str(failure))
            self._failed = True
        else:
            self._failed = False

    def ads(self) -> tuple[Ad, ...]:
        """Return an ad for each node, the same as long as nothing has changed."""
        now_ms = boot_ms()
        return tuple(self._ad(peer, now_ms) for peer in self._node.voters)

    def _ad(self, name: str, now_ms: int) -> Ad:
        peer = self._settings.peer(name)
        elections = self._node.elections
        held = [election for election, one in elections.items() if one.leader == name]
        heard_ms = now_ms if name == self._node.me else self._node.heard_ms.get(name)
        ad: dict[str, Any] = {
            "MyType": MY_TYPE,
            "TargetType": "",
            "Name": name_of(name, self._settings.cluster),
            "Node": name,
            "Cluster": self._settings.cluster,
            "Role": ",".join(sorted(peer.roles)),
            "Addresses": [f"{one.ip}/{one.prefix_length}" for one in self._settings.addresses],
            "Endpoint": str(peer.endpoint),
            "Alive": heard_ms is not None and now_ms - heard_ms < HEARD_MS,
            "Drained": name in self._node.book.drained,
            "Paused": self._node.book.paused,
            "Holds": held,
            "Pool": self._backend.name,
            "Matchmaker": elections[self._backend.name].leader or "",
            "ClassAdLifetime": LIFETIME_S,
        }
        if name == self._node.me:
            ad["GatewayVersion"] = __version__
        if held:
            ad |= self._tenure(held)
        return ad

    def _tenure(self, held: list[str]) -> dict[str, Any]:
        """Return since when, in which term and why a node holds what it holds: of the newest of its elections."""
        found: dict[str, Any] = {"Term": max(self._node.elections[name].leader_term for name in held)}
        changes = [change for name in held if (change := self._history.last(name)) is not None]
        if not changes:
            return found
        newest = max(changes, key=lambda change: change["at"])
        found |= {"HeldSince": int(newest["at"]), "LastChangeCause": newest["cause"]}
        found |= {"LastChangeElection": newest["election"], "LastChangeFrom": newest["from"] or ""}
        return found if newest["gap_ms"] is None else found | {"LastGapMs": newest["gap_ms"]}


class Manager(Protocol):
    """What leads a pool's election on this host."""

    @property
    def name(self) -> str:
        """Name of the backend."""

    def holds(self) -> bool:
        """Tell whether this manager may act as the matchmaker, now."""


def make_advertising(
    settings: Settings, node: Node, history: History, managers: Sequence[Manager]
) -> dict[str, Advertising]:
    """Return the advertising of this host's managers, by the backend's name, where the file asks for it."""
    backends = {backend.name: backend for backend in settings.backends if backend.advertise}
    return {
        manager.name: Advertising(
            settings=settings,
            backend=backend,
            collector=next(server.endpoint for server in backend.servers if server.name == node.me),
            node=node,
            history=history,
            leads=manager.holds,
        )
        for manager in managers
        if (backend := backends.get(manager.name)) is not None
    }
