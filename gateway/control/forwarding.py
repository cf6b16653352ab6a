"""Forwarding as control sees it: which listeners the relay has, and where each route leads. It moves no byte itself."""

import socket
from collections.abc import Callable
from typing import Any

import structlog
import trio

from gateway.config.settings import Address, Backend, Endpoint, Frontend, LogFormat, Peer, Settings
from gateway.control.commands import Commands
from gateway.control.diversions import Diversions
from gateway.control.sessions import SESSIONS_DEFAULT, RelaySessions
from gateway.control.traffic import Traffic
from gateway.core.actions import FollowLeader
from gateway.relay.client import Relay, RelayDied, RelayEvent, RelayProcess, RelayStarted
from gateway.relay.limits import RESERVE_DESCRIPTORS, demand
from gateway.relay.messages import (
    Listener,
    ListenFailed,
    Ready,
    Report,
    Sessions,
    ShutDown,
    Switched,
    Tcplog,
    WhenDown,
)
from gateway.relay.workers import Workers, workers_count

# A collector's forwarding socket is blocking: what it waits for, the whole pool waits for. Measured: with these bounds
# the longest stall of the leader's collector was 0.2 s; without a relay between, 20-40 s.
VIEW_CONNECT_MS = 150
VIEW_FIRST_BYTE_MS = 200
VIEW_CLIENTS_MAX = 100  # one collector and its forwarding sockets
SILENT_MIN = 16  # so many clients may be about to say their first word, however few may be served
VIEW_PORT_FIRST = 19_600  # on 127.0.0.1; one port for each peer, by its place in the file


def frontend_listeners(settings: Settings, me: Peer) -> tuple[Listener, ...]:
    """Return the listeners of the frontends on the addresses that `me` may hold.

    Also where the kernel forwards: what comes while no server is elected is held by the relay.
    """
    addresses = {address.name: address for address in settings.addresses}
    backends = {backend.name: backend for backend in settings.backends}
    as_json = settings.log_format is LogFormat.JSON
    return tuple(
        _frontend_listener(
            f"{frontend.name}/{bind.address}:{bind.port}/{protocol}",
            protocol,
            addresses[bind.address],
            bind.port,
            frontend,
            backends[frontend.backend],
            Tcplog(json=as_json, node=me.name, frontend=frontend.name) if frontend.tcplog else None,
        )
        for frontend in settings.frontends
        for bind in frontend.binds
        for protocol in sorted(bind.protocols)
        if me.name in addresses[bind.address].holders
    )


def _frontend_listener(
    name: str, protocol: str, address: Address, port: int, frontend: Frontend, backend: Backend, tcplog: Tcplog | None
) -> Listener:
    return Listener(
        name=name,
        route=backend.name,
        protocol=protocol,
        host=address.ip,
        port=port,
        freebind=True,  # the listener waits where the address will come
        reuse_port=True,  # also of one worker alone: a reload may give it others
        transparent=backend.transparent,
        hold_ms=backend.queue_ms,
        connect_ms=backend.connect_ms,
        client_ms=frontend.client_ms,
        hello_ms=frontend.hello_ms,
        connections_max=frontend.maxconn,
        held_max=frontend.maxconn,
        silent_max=max(SILENT_MIN, frontend.maxconn // 2),
        source_max=frontend.maxconn_source,
        source_rate=frontend.rate_source,
        flows_max=frontend.maxconn,
        servers=tuple((str(server.endpoint), server.name) for server in backend.servers),
        tcplog=tcplog,
    )


def frontend_of(listener: str) -> str:
    """Return the frontend that a listener of `frontend_listeners` belongs to."""
    return listener.partition("/")[0]


def view_port(settings: Settings, standby: str) -> int:
    """Return the local port at which this node's collector reaches the standby `standby`."""
    return VIEW_PORT_FIRST + [peer.name for peer in settings.peers].index(standby)


def view_listeners(settings: Settings, backend: Backend, me: Peer) -> tuple[Listener, ...]:
    """Return the local relays between this node's collector and those of the other managers of `backend`."""
    return tuple(
        Listener(
            name=f"view/{server.name}/{protocol}",
            route=f"view/{server.name}",
            protocol=protocol,
            host="127.0.0.1",
            port=view_port(settings, server.name),
            when_down=WhenDown.REFUSE,
            connect_ms=VIEW_CONNECT_MS,
            user_timeout_ms=VIEW_CONNECT_MS,
            first_byte_ms=VIEW_FIRST_BYTE_MS,
            connections_max=VIEW_CLIENTS_MAX,
            silent_max=VIEW_CLIENTS_MAX,
            flows_max=VIEW_CLIENTS_MAX,
        )
        for server in backend.servers
        if server.name != me.name
        for protocol in ("tcp", "udp")
    )


def door_listener(me: Peer) -> Listener:
    """Return where this node itself listens for its peers: a port to be found free, not one of the relay's."""
    return Listener(name="peers", route="", protocol="tcp", host=me.endpoint.host, port=me.endpoint.port)


class Forwarding:
    """The relay processes of one node and their routes.

    Args:
        listeners: everything they listen on; empty means that no relay is run.
        on_ready: told whether at least one of them listens, with the reason where none does.
        workers: how many processes carry the frontends; see `Settings.relay_workers`. Without a frontend one is enough.
        spawn: as for `Relay`: whose children they are; ours where None is given.
    """

    def __init__(
        self,
        listeners: tuple[Listener, ...],
        on_ready: Callable[[bool, str], None],
        workers: int = 1,
        spawn: Callable[[socket.socket], RelayProcess] | None = None,
    ) -> None:
        self._listeners = listeners
        self._on_ready = on_ready
        self._routes: dict[str, tuple[Endpoint | None, int]] = {}  # route -> last server that it had, epoch
        self._log = structlog.get_logger()
        frontends = [listener for listener in listeners if listener.when_down is WhenDown.HOLD]
        self.workers = Workers(workers_count(workers) if frontends else 1, spawn, self._report)
        self._whys: list[str | None] = [None] * len(self.workers.relays)  # why each does not listen; "": it does
        self.traffic = Traffic(listeners, {listener.name: frontend_of(listener.name) for listener in frontends})
        self._sessions = RelaySessions(self.workers.relays, frontends)
        self.restarts = [0] * len(self.workers.relays)
        self.workers.configure(listeners)
        self.warnings = self._cuts(frontends)

    @property
    def restarts_total(self) -> int:
        """How often a process had to be replaced."""
        return sum(self.restarts)

    @property
    def listening(self) -> int:
        """How many processes have opened all their ports."""
        return self._whys.count("")

    def _cuts(self, frontends: list[Listener]) -> list[str]:
        """Say which limits had to be cut because there are not descriptors enough, and what would help."""
        count, descriptors = len(self.workers.relays), self.workers.descriptors
        cut = [
            f"{self.workers.clients_max(listener.name)} of {wanted} {'flows' if udp else 'connections'} of "
            f"'{listener.name}'"
            for listener in frontends
            for udp in (listener.protocol == "udp",)
            for wanted in (listener.flows_max if udp else listener.connections_max,)
            if self.workers.clients_max(listener.name) < wanted
        ]
        if not cut:
            return []
        enough = ((demand(self._listeners) // count + RESERVE_DESCRIPTORS) // 1_024 + 1) * 1_024
        return [
            f"{descriptors} file descriptors (RLIMIT_NOFILE) for each of {count} relay processes carry only "
            f"{', '.join(cut)}: allow {enough} (LimitNOFILE= of the service), or lower 'maxconn'"
        ]

    def set_server(self, route: str, server: Endpoint | None, drain_ms: int = 0) -> None:
        """Let `route` lead to `server` from now on; None holds (or refuses) new clients until there is one.

        A server other than the last one is a switch: what is connected to the old one is closed, with `drain_ms` not
        before that time is over (a planned switch).
        """
        last, epoch = self._routes.get(route, (None, 0))
        switch = server is not None and server != last
        if switch:
            last, epoch = server, epoch + 1
        self._routes[route] = last, epoch
        self.workers.route(route, server, epoch, drain_ms if switch else 0)

    def routes(self) -> dict[str, tuple[str | None, int, int]]:
        """Return each route's last server (host, port) and epoch, for the process that takes our place."""
        return {
            name: (last.host if last else None, last.port if last else 0, epoch)
            for name, (last, epoch) in self._routes.items()
        }

    def take_over(self, routes: dict[str, tuple[str | None, int, int]]) -> None:
        """Go on with the epochs of the process before us: the same server in the same epoch is no switch."""
        self._routes = {
            name: (None if host is None else Endpoint(host, port), epoch)
            for name, (host, port, epoch) in routes.items()
        }

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the relay; ends by cancellation. Started as soon as one of its processes is: others may be late."""
        if not self._listeners:
            self._on_ready(True, "")  # an address alone: nothing of ours has to be up for it
            task_status.started()
            return
        for warning in self.warnings:
            self._log.warning("relay.limits-cut", reason=warning)
        async with trio.open_nursery() as nursery:
            for number, relay in enumerate(self.workers.relays):
                nursery.start_soon(self._take_events, number, relay)
            await nursery.start(self.workers.run)
            task_status.started()

    async def _take_events(self, number: int, relay: Relay) -> None:
        async for event in relay.events:
            self._take(event, number)

    def _take(self, event: RelayEvent, number: int = 0) -> None:
        log = self._log.bind(worker=number)
        match event:
            case RelayStarted(pid=pid):
                log.info("relay.started", pid=pid)
            case RelayDied(status=status, reason=reason, restart_ms=restart_ms):
                self.restarts[number] += 1
                self.traffic.lost(number)
                log.error("relay.died", status=status, reason=reason, restart_ms=restart_ms)
                self._set_ready(number, "the relay process died")
            case ListenFailed(listener=name, host=host, port=port, reason=reason):
                log.error("relay.listen-failed", listener=name, host=host, port=port, reason=reason)
                self._set_ready(number, f"cannot listen on {host}:{port} ({name}): {reason}")
            case Ready(listeners=count):
                # Said when every listener is open: also of one that had failed, and was tried again.
                log.info("relay.ready", listeners=count)
                self._set_ready(number, "")
            case Sessions() | ShutDown():
                self._sessions.take(number, event)
            case Switched(route=route, epoch=epoch, connections_closed=closed, flows_closed=flows, took_us=took_us):
                log.info(
                    "relay.switched",
                    route=route,
                    epoch=epoch,
                    connections_closed=closed,
                    flows_closed=flows,
                    took_us=took_us,
                )

    def _set_ready(self, number: int, why_not: str) -> None:
        before, self._whys[number] = self._whys[number], why_not
        if why_not and before == "" and self.listening:
            self._log.warning("relay.degraded", listening=self.listening, workers=len(self._whys), reason=why_not)
        # The kernel gives clients to those sockets only that listen: one is enough.
        self._on_ready(self.listening > 0, "" if self.listening else why_not)

    def register(self, commands: Commands) -> None:
        """Answer what can be asked of the relay's connections."""
        self._sessions.register(commands)

    async def sessions(self, limit: int = SESSIONS_DEFAULT) -> dict[str, Any]:
        """Return what up to `limit` connections of the relay are doing; see `RelaySessions.list`."""
        return await self._sessions.list(limit)

    async def shut_down(self, session: str) -> bool:
        """Reset the connection that `sessions` calls so; return whether there was one."""
        return await self._sessions.shut_down(session)

    def _report(self, number: int, report: Report) -> None:
        self.traffic.take(number, report, trio.current_time())

    def status(self) -> dict[str, Any] | None:
        """Return the relay's part of the node's status; None before the first report."""
        relays = self.workers.relays
        if not self._listeners or all(relay.latest_report is None for relay in relays):
            return None
        workers = [self._worker(number) for number in range(len(relays))]
        tcp = [each.name for each in self._listeners if each.protocol == "tcp" and each.when_down is WhenDown.HOLD]
        return {
            "pid": next((relay.pid for relay in relays if relay.pid is not None), None),
            "restarts_total": self.restarts_total,
            "listening": self.listening,
            "degraded": self.listening < len(relays),
            "workers": workers,
            "descriptors": {
                "used": sum(worker["descriptors"]["used"] for worker in workers),
                "limit": self.workers.descriptors * len(relays),
                "connections_max": sum(self.workers.clients_max(name) for name in tcp),
            },
            "frontends": self.traffic.frontends(),
            "backends": self.traffic.backends(),
            "listeners": self.traffic.listeners(),
        }

    def _worker(self, number: int) -> dict[str, Any]:
        vitals, cpu = self.traffic.vitals(number)
        why_not = self._whys[number]
        return {
            "pid": self.workers.relays[number].pid,
            "listening": why_not == "",
            "reason": "it has not said anything yet" if why_not is None else why_not,
            "restarts_total": self.restarts[number],
            "cpu": round(cpu, 3),
            "resident_kib": vitals.resident_kib if vitals else 0,
            "log_dropped_total": vitals.log_dropped_total if vitals else 0,
            "descriptors": {
                "used": vitals.descriptors if vitals else 0,
                "limit": vitals.descriptors_max if vitals else self.workers.descriptors,
            },
        }


class ElectedServers:
    """Keeps the frontends' routes, and what the kernel does past the relay, on the elected manager of their backend."""

    def __init__(self, settings: Settings, forwarding: Forwarding, diversions: Diversions) -> None:
        self._forwarding = forwarding
        self._diversions = diversions
        self._drain_ms = {backend.name: backend.drain_ms for backend in settings.backends}
        self._planned: set[str] = set()  # elections whose last leader gave up on request
        self._servers = {
            backend.name: {server.name: server.endpoint for server in backend.servers} for backend in settings.backends
        }
        self.elected: dict[str, str | None] = {}

    def follow(self, change: FollowLeader) -> None:
        """Take a change of leader; elections that are no backend's are none of its business."""
        servers = self._servers.get(change.election)
        if servers is None:
            return
        self.elected[change.election] = change.leader
        self._forwarding.traffic.follow(change.election, change.leader)
        if change.leader is None:
            if change.planned:
                self._planned.add(change.election)
            self._set(change.election, None, 0)
        else:
            planned = change.election in self._planned
            self._planned.discard(change.election)
            self._set(change.election, servers[change.leader], self._drain_ms[change.election] if planned else 0)

    def _set(self, backend: str, server: Endpoint | None, drain_ms: int) -> None:
        self._forwarding.set_server(
            backend, server, drain_ms
        )  # first: old connections learn of it, held ones are served
        self._diversions.set_server(backend, server, drain_ms)
