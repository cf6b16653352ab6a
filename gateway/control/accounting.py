"""The pool's accounting on one manager: shipped to the standbys while it leads, kept and installed while it does not.

Who wrote what, and when, is told by (term, generation): the elected manager keeps its own changes in the same store, so
that a manager that leads again after a restart does not replace its own newer file by an older replica.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
import trio

from gateway.config.settings import Backend, Peer, Settings
from gateway.kernel.inotify import FileWatch
from gateway.matchmaker.condor import CondorHost
from gateway.matchmaker.replication import Material, Newest, Shipped, serve, ship
from gateway.matchmaker.spool import ReplicaCorrupt, ReplicaStale, ReplicaStore
from gateway.matchmaker.watch import watch
from gateway.wire.replica import Replica
from gateway.wire.seal import Keyring


class Accounting:
    """The accounting file of one backend's pool, on one of its managers."""

    def __init__(self, *, settings: Settings, backend: Backend, me: Peer, keyring: Keyring) -> None:
        self._me = me
        self._on = backend.replicate_accounting
        self._standbys = tuple(settings.peer(server.name) for server in backend.servers if server.name != me.name)
        self._material = Material(
            cluster=settings.cluster,
            keyring=keyring,
            me=me.name,
            peers=frozenset(server.name for server in backend.servers),
        )
        self._store = ReplicaStore(Path(settings.state_dir) / "replica" / backend.name)
        self._leader: tuple[str | None, int] = (None, 0)
        self._shipped: dict[str, Shipped] = {}
        self._changed: Callable[[], None] = lambda: None
        self._log = structlog.get_logger().bind(matchmaker=backend.name)

    @property
    def freshness(self) -> tuple[int, int]:
        """Term and generation of the newest accounting on this host."""
        held = self._store.held
        return (0, 0) if held is None else held.version

    def status(self) -> dict[str, Any]:
        """Return the accounting part of the status document."""
        term, generation = self.freshness
        return {
            "term": term,
            "generation": generation,
            "standbys": {
                name: {"term": shipped.term, "generation": shipped.generation, "lag_ms": shipped.lag_ms}
                for name, shipped in self._shipped.items()
            },
        }

    def follow(self, leader: str | None, term: int) -> None:
        """Take who leads: from nobody else is a replica accepted."""
        self._leader = (leader, term)

    async def install(self, host: CondorHost) -> None:
        """Bring HTCondor's accounting file to the newest state known here. Only while no negotiator runs.

        Raises:
            OSError: the file can't be replaced.
        """
        held = self._store.held
        if not self._on or held is None or held.origin == self._me.name:
            return  # what this host wrote last is in HTCondor's spool already, or newer there
        try:
            installed = await self._store.install(host.accountant_log, host.uid, host.gid)
        except ReplicaCorrupt as error:
            # Better the older file of this host than no matchmaker: a negotiator never starts on a corrupt one.
            self._log.error("accounting.replica-corrupt", reason=str(error))
            return
        if installed is not None:
            self._log.info(
                "accounting.installed", origin=installed.origin, term=installed.term, generation=installed.generation
            )

    async def receive(
        self, changed: Callable[[], None], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Take replicas from whoever leads, until cancelled; `changed` is called when one has been kept.

        Raises:
            OSError: the node's own port can't be listened on.
        """
        if not self._on:
            task_status.started()
            return
        self._changed = changed
        await self._store.load()
        async with trio.open_nursery() as nursery:
            await nursery.start(self._serve)
            task_status.started()

    async def _serve(self, *, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        await serve(
            self._me.endpoint,
            self._material,
            self._store,
            accept=lambda sender, term: (sender, term) == self._leader,
            on_stored=self._stored,
            task_status=task_status,
        )

    def _stored(self, replica: Replica) -> None:
        self._log.debug("accounting.stored", origin=replica.origin, term=replica.term, generation=replica.generation)
        self._changed()

    async def ship(self, term: int, host: CondorHost) -> None:
        """Ship every change of the accounting file to the standbys; ends by cancellation, with the leadership."""
        if not self._on:
            return
        newest = Newest()
        self._shipped.clear()
        async with trio.open_nursery() as nursery:
            for standby in self._standbys:
                nursery.start_soon(self._ship_to, standby, newest)
            async with contextlib.aclosing(watch(host.accountant_log, watch_writes=FileWatch)) as changes:
                async for change in changes:
                    replica = change.replica(self._me.name, term)
                    newest.publish(replica)
                    await self._keep_own(replica)

    async def _ship_to(self, standby: Peer, newest: Newest) -> None:
        await ship(standby, self._material, newest, report=self._report)

    def _report(self, shipped: Shipped) -> None:
        self._shipped[shipped.standby] = shipped

    async def _keep_own(self, replica: Replica) -> None:
        try:
            await self._store.put(replica)
        except ReplicaStale as error:
            # Another manager led a later term: this one is about to be told.
            self._log.warning("accounting.stale", term=replica.term, reason=str(error))
        except (ReplicaCorrupt, OSError) as error:
            self._log.error("accounting.not-kept", reason=str(error))
        self._changed()
