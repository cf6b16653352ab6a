"""Forwarding as control sees it: which listeners the relay has, and where each route leads. It moves no byte itself."""

from collections.abc import Callable

import structlog
import trio

from gateway.config.settings import Address, Backend, Endpoint, Peer, Settings
from gateway.core.actions import FollowLeader
from gateway.relay.client import Relay, RelayDied, RelayEvent, RelayStarted, run_relay
from gateway.relay.messages import Listener, ListenFailed, Ready, Switched, WhenDown

# A collector's forwarding socket is blocking: what it waits for, the whole pool waits for. Measured: with these bounds
# the longest stall of the leader's collector was 0.2 s; without a relay between, 20-40 s.
VIEW_CONNECT_MS = 150
VIEW_FIRST_BYTE_MS = 200
VIEW_PORT_FIRST = 19_600  # on 127.0.0.1; one port for each peer, by its place in the file


def frontend_listeners(settings: Settings, me: Peer) -> tuple[Listener, ...]:
    """Return the listeners of the frontends on the addresses that `me` may hold."""
    addresses = {address.name: address for address in settings.addresses}
    backends = {backend.name: backend for backend in settings.backends}
    return tuple(
        _frontend_listener(
            f"{frontend.name}/{bind.address}:{bind.port}/{protocol}",
            protocol,
            addresses[bind.address],
            bind.port,
            backends[frontend.backend],
        )
        for frontend in settings.frontends
        for bind in frontend.binds
        for protocol in sorted(bind.protocols)
        if me.name in addresses[bind.address].holders
    )


def _frontend_listener(name: str, protocol: str, address: Address, port: int, backend: Backend) -> Listener:
    return Listener(
        name=name,
        route=backend.name,
        protocol=protocol,
        host=address.ip,
        port=port,
        freebind=True,  # the listener waits where the address will come
        hold_ms=backend.queue_ms,
        connect_ms=backend.connect_ms,
    )


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
        )
        for server in backend.servers
        if server.name != me.name
        for protocol in ("tcp", "udp")
    )


def replica_listeners(backends: tuple[Backend, ...], me: Peer) -> tuple[Listener, ...]:
    """Return where this node itself takes replicas: a port to be found free, not one of the relay's."""
    if not any(backend.replicate_accounting for backend in backends):
        return ()
    host, port = me.endpoint.host, me.endpoint.port
    return (Listener(name="replication", route="", protocol="tcp", host=host, port=port),)


class Forwarding:
    """The relay process of one node and its routes.

    Args:
        listeners: everything it listens on; empty means that no relay is run.
        on_ready: told whether the relay listens, with the reason where it does not.
        relay: the relay to use; its process is a child of this one where none is given.
    """

    def __init__(
        self,
        listeners: tuple[Listener, ...],
        on_ready: Callable[[bool, str], None],
        relay: Relay | None = None,
    ) -> None:
        self._listeners = listeners
        self._on_ready = on_ready
        self._routes: dict[str, tuple[Endpoint | None, int]] = {}  # route -> last server that it had, epoch
        self._log = structlog.get_logger()
        self.relay = relay or Relay()
        self.restarts_total = 0

    def set_server(self, route: str, server: Endpoint | None) -> None:
        """Let `route` lead to `server` from now on; None holds (or refuses) new clients until there is one.

        A server other than the last one is a switch: what is connected to the old one is closed.
        """
        last, epoch = self._routes.get(route, (None, 0))
        if server is not None and server != last:
            last, epoch = server, epoch + 1
        self._routes[route] = last, epoch
        self.relay.route(route, server, epoch)

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
        """Run the relay; ends by cancellation."""
        if not self._listeners:
            self._on_ready(True, "")  # an address alone: nothing of ours has to be up for it
            task_status.started()
            return
        self.relay.configure(self._listeners)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_events)
            await nursery.start(run_relay, self.relay)
            task_status.started()

    async def _take_events(self) -> None:
        async for event in self.relay.events:
            self._take(event)

    def _take(self, event: RelayEvent) -> None:
        match event:
            case RelayStarted(pid=pid):
                self._log.info("relay.started", pid=pid)
            case RelayDied(status=status, reason=reason, restart_ms=restart_ms):
                self.restarts_total += 1
                self._log.error("relay.died", status=status, reason=reason, restart_ms=restart_ms)
                self._on_ready(False, "the relay process died")
            case ListenFailed(listener=name, host=host, port=port, reason=reason):
                self._log.error("relay.listen-failed", listener=name, host=host, port=port, reason=reason)
                self._on_ready(False, f"cannot listen on {host}:{port} ({name}): {reason}")
            case Ready(listeners=count):
                # Said when every listener is open: also of one that had failed, and was tried again.
                self._log.info("relay.ready", listeners=count)
                self._on_ready(True, "")
            case Switched(route=route, epoch=epoch, connections_closed=closed, flows_closed=flows, took_us=took_us):
                self._log.info(
                    "relay.switched",
                    route=route,
                    epoch=epoch,
                    connections_closed=closed,
                    flows_closed=flows,
                    took_us=took_us,
                )


class ElectedServers:
    """Keeps the frontends' routes on the elected manager of their backend."""

    def __init__(self, settings: Settings, forwarding: Forwarding) -> None:
        self._forwarding = forwarding
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
        self._forwarding.set_server(change.election, servers[change.leader] if change.leader else None)
