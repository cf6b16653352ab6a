"""The control process: every task of a node, in one nursery. Nothing but composition happens here.

What lives where:

    heartbeats ──messages──▶ shell ──actions──▶ services: addresses, matchmakers ──wills──▶ the guard, our parent
        ▲                      │ └───follow───▶ forwarding (the relay process), matchmakers
        └──────── Send ────────┘
"""

import gc
import os
import socket
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio

from gateway import __version__
from gateway.config.keyfile import Keys
from gateway.config.settings import Peer, Role, Settings
from gateway.console.admin import serve_admin
from gateway.console.children import make_children
from gateway.console.logs import log_counts
from gateway.control.address import AddressService
from gateway.control.advertising import make_advertising
from gateway.control.commands import Commands, Level
from gateway.control.configuration import describe
from gateway.control.diversions import Diversions
from gateway.control.door import Door
from gateway.control.ending import open_stop
from gateway.control.examining import Examining
from gateway.control.forwarding import (
    ElectedServers,
    Forwarding,
    door_listener,
    frontend_listeners,
    view_listeners,
)
from gateway.control.guard import Fencing, GuardLink
from gateway.control.heartbeats import HeartbeatPortTaken, Heartbeats
from gateway.control.history import History
from gateway.control.inheritance import Channel, Done, TakeOverFailed
from gateway.control.link import ClusterLink
from gateway.control.matchmaker import MatchmakerService, open_matchmaker
from gateway.control.moves import Moves
from gateway.control.ordering import Ordering
from gateway.control.orders_file import OrdersFile
from gateway.control.preflight import StartRefused, require_free_ports, require_no_stranger, require_root
from gateway.control.receiving import Receivings
from gateway.control.returns import Returns
from gateway.control.shell import Service, Shell
from gateway.control.status import Status
from gateway.control.succession import Legacy, Parts, await_heir, bequeath, go_on, take_over
from gateway.control.votes import VoteFileBroken, VoteFiles
from gateway.control.watching import Watching
from gateway.control.wills import Wills
from gateway.core.actions import FollowLeader
from gateway.core.changes import ADDRESS, MATCHMAKER
from gateway.core.events import Event, ResignationRequested
from gateway.core.node import ElectionPlan, Node
from gateway.core.snapshot import SnapshotRefused
from gateway.core.timing import Timing
from gateway.kernel.clock import boot_ms
from gateway.kernel.hugepages import gather_memory
from gateway.kernel.link import Event as LinkEvent
from gateway.kernel.link import LinkWatch
from gateway.kernel.netlink import KernelRefused
from gateway.kernel.realtime import CONTROL_PRIORITY, is_realtime, prefer_realtime
from gateway.kernel.sd_notify import SystemdNotifier
from gateway.kernel.templates import TemplatesMissing
from gateway.matchmaker.condor import CondorMissing
from gateway.matchmaker.master import MasterMissing
from gateway.matchmaker.negotiator import NegotiatorFailed
from gateway.wire.channel import LINK_MAGIC
from gateway.wire.messages import Orders
from gateway.wire.seal import BOOT_ID_BYTES, Keyring, Seal

# To the operator, wherever they come from: one sentence says all.
ANSWERS = (
    KernelRefused,
    HeartbeatPortTaken,
    VoteFileBroken,
    CondorMissing,
    NegotiatorFailed,
    MasterMissing,
    TemplatesMissing,
    TakeOverFailed,
    SnapshotRefused,
)
TRACE_CHARACTERS_MAX = 4_000
STOP_S_MAX = 5.0  # for a graceful end: the negotiator's stop is confirmed well within it


def election_plans(settings: Settings) -> tuple[ElectionPlan, ...]:
    """Return the cluster's elections: one for each address, one for each backend, candidates in the file's order."""
    return (
        *(ElectionPlan(address.name, address.holders) for address in settings.addresses),
        *(
            ElectionPlan(backend.name, tuple(server.name for server in backend.servers))
            for backend in settings.backends
        ),
    )


def election_kinds(settings: Settings) -> dict[str, str]:
    """Return what each of the cluster's elections is about."""
    return {address.name: ADDRESS for address in settings.addresses} | {
        backend.name: MATCHMAKER for backend in settings.backends
    }


async def run_node(
    settings: Settings,
    me: Peer,
    keys: Keys,
    guard: socket.socket | None = None,
    predecessor: socket.socket | None = None,
    file: str = "",
) -> None:
    """Run this host's node until SIGTERM or SIGINT, until its guard has ended, or until another process takes over.

    Args:
        settings: the configuration.
        me: this host's node.
        keys: the cluster's keys.
        guard: the link to the guard that has started this process, where one has.
        predecessor: the link to the process that runs this node already, where this one is to take its place.
        file: where the configuration was read from.

    Raises:
        StartRefused: the node can't start here; nothing has been changed on the host.
    """
    log = structlog.get_logger()
    try:
        await _run_node(settings, me, keys, guard, None if predecessor is None else Channel(predecessor), file)
    except* ANSWERS as group:
        # Answers to the operator, wherever they come from; the first is the one to read.
        raise StartRefused(str(_first(group))) from group
    log.info("node.ended")


async def _run_node(
    settings: Settings, me: Peer, keys: Keys, guard: socket.socket | None, predecessor: Channel | None, file: str
) -> None:
    log = structlog.get_logger()
    require_root()
    posted: list[Callable[[Event], None]] = []  # filled with the shell's `post` below: services are made before it

    def post(event: Event) -> None:
        posted[0](event)

    link = GuardLink(guard)
    keyring = Keyring(keys.keys, keys.active)
    commands, door = Commands(), Door(me.endpoint)
    cluster_link = ClusterLink(settings, me, keyring, commands)
    door.open_to(LINK_MAGIC, cluster_link.serve)
    diversions, receivings, returns = Diversions(settings, me), Receivings(settings, me), Returns(settings, me)
    addresses, forwarding, matchmakers = await _make_services(
        settings, me, keyring, link, post, diversions, door, first=predecessor is None
    )
    votes, orders_file = VoteFiles(Path(settings.state_dir)), OrdersFile(Path(settings.state_dir))
    orders, unread = orders_file.read()
    gather_memory()
    warnings = [warning for warning in (prefer_realtime(CONTROL_PRIORITY), unread) if warning]
    gc.collect()
    gc.freeze()  # what is here now stays: a full collection of it would stop everything for 30 ms and more

    history = History(
        Path(settings.state_dir) / "history.jsonl",
        me.name,
        election_kinds(settings),
        lambda peer: node.heard_ms.get(peer),
    )
    await history.load()
    estate = (
        None
        if predecessor is None
        else await take_over(
            predecessor,
            lambda: _make_node(settings, me, votes, orders),
            settings.cluster,
            {address.name: address.place for address in addresses},
        )
    )
    if estate is not None:
        await history.take_up(estate.history_seq)
    node = _make_node(settings, me, votes, orders)
    ordering = Ordering(orders_file, node, post, history.tell)
    peers = {peer.name: peer.endpoint for peer in settings.peers if peer.name != me.name}
    boot_id = os.urandom(BOOT_ID_BYTES) if estate is None else estate.seal.boot_id
    seal = Seal(settings.cluster, keyring, me.name, boot_id, node.voters)
    heartbeats = Heartbeats(
        me.endpoint,
        peers,
        seal,
        patient=node.timing.patient,
        adopted=() if estate is None else estate.heartbeats,
    )
    # The first change on this host: whatever refuses a start has refused it by now.
    Path(settings.state_dir).mkdir(mode=0o700, parents=True, exist_ok=True)  # noqa: ASYNC240 (nothing beats yet)
    elected = ElectedServers(settings, forwarding, diversions)

    def follow(change: FollowLeader) -> None:
        if Role.GATEWAY in me.roles:
            elected.follow(change)
        receivings.follow(change)
        for service in matchmakers:
            service.follow(change)
        history.followed(change)

    def wake() -> None:
        wills.wake()
        for matchmaker in matchmakers:
            matchmaker.wake()

    services: dict[str, Service] = {address.name: address for address in addresses}
    services |= {matchmaker.name: matchmaker for matchmaker in matchmakers}
    fencings: dict[str, Callable[[], Fencing]] = {
        address.name: partial(_fencing_of_address, address) for address in addresses
    }
    fencings |= {one.name: partial(_fencing_of_matchmaker, one, receivings) for one in matchmakers}
    wills = Wills(link=link, node=node, heartbeats=heartbeats, seal=seal, peers=peers, fencings=fencings)
    shell = Shell(
        node=node,
        heartbeats=heartbeats,
        votes=votes,
        services={name: wills.of(name, service) for name, service in services.items()},
        follow=follow,
        keep_orders=ordering.keep,
        on_wake=wake,
        watcher=history,
    )
    posted.append(shell.post)
    for matchmaker in matchmakers:
        matchmaker.node, matchmaker.pump = node, heartbeats.pump
        matchmaker.on_fencing_change(partial(wills.changed, matchmaker.name))
        matchmaker.on_phase = partial(history.phase, matchmaker.name)
    for address in addresses:
        address.on_phase = partial(history.phase, address.name)
    for address in addresses:
        if (unfenced := await address.prepare(adopt=estate is not None)) is not None:
            warnings.append(unfenced)
    warnings += await diversions.prepare(adopt=estate is not None)
    await returns.prepare(adopt=estate is not None)
    warnings += await receivings.prepare(adopt=estate is not None)
    for warning in warnings:
        log.warning("node.warning", reason=warning)
    parts = Parts(
        node,
        seal,
        heartbeats,
        shell,
        forwarding,
        link,
        addresses,
        matchmakers,
        settings.cluster,
        (diversions, receivings, returns),
    )
    if estate is not None and predecessor is not None:
        await go_on(parts, estate, wills, follow)
        predecessor.send(Done())
        predecessor.close()
        log.info("node.taken-over")
    status = Status(
        settings=settings,
        me=me,
        shell=shell,
        heartbeats=heartbeats,
        addresses=addresses,
        matchmakers=matchmakers,
        forwarding=forwarding,
        diversions=diversions,
        receivings=receivings,
        returns=returns,
        link=link,
        door=door,
        peers=cluster_link,
        history=history,
        children=(children := make_children(settings, me, commands, history.seq)),
        ordering=ordering,
        warnings=warnings,
    )
    Moves(
        kinds=election_kinds(settings),
        node=node,
        post=post,
        link=cluster_link,
        matchmakers={one.name: one for one in matchmakers},
        last=history.last,
    ).register(commands)
    ordering.register(commands)
    forwarding.register(commands)
    commands.add("peers", cluster_link.answer_peers, Level.USER)
    commands.add("status", lambda request: {**status.document(), "log": log_counts()}, Level.USER)
    commands.add("history", history.answer_history, Level.USER)
    commands.add("events", history.answer_events, Level.USER)
    commands.add("config", lambda request: describe(settings, file), Level.USER)
    commands.add("doctor", Examining(file, me.name).answer, Level.USER)
    notifier = SystemdNotifier()
    watching = Watching(
        history=history,
        node=node,
        warnings=status.warnings,
        matchmakers={one.name: one.status for one in matchmakers},
        notifier=notifier,
    )
    async with trio.open_nursery() as nursery, open_stop(link) as stop_wanted:
        start = partial(_start, nursery)
        await start("guard link", link.run)
        await start("votes", shell.run_votes)
        await start("orders", ordering.run)
        await start("history", history.run)
        await start("timer", shell.run_timer)
        await start("heartbeats", heartbeats.run, shell.deliver, shell.settle)
        await start("door", door.run)
        await start("admin socket", serve_admin, admin_socket(settings), commands)
        for matchmaker in matchmakers:
            await start(f"matchmaker {matchmaker.name}", matchmaker.run)
        for address in addresses:
            await start(f"address {address.name}", address.run)
        if addresses:
            await start("link watch", LinkWatch().run, partial(_tell_all, (*addresses, diversions)))
        await start("diversions", diversions.run)
        await start("receiving", receivings.run)
        await start("returns", returns.run)
        await start("forwarding", forwarding.run)
        for child in children:
            await start(child.name, child.run)
        link.ready(
            dead_ms=settings.guard_dead_ms,
            heartbeat_ms=settings.heartbeat_ms,
            lease_ms=settings.lease_ms,
            realtime=is_realtime(),
        )
        log.info("node.started", roles=sorted(me.roles), voters=len(node.voters))
        history.tell("node-started", version=__version__, reloaded=estate is not None)
        for name, advertising in make_advertising(settings, node, history, matchmakers).items():
            await start(f"advertising {name}", advertising.run)
        await start("watching", watching.run)
        heir = await _wait_for_end(stop_wanted, parts)
        if heir is None:
            log.info("node.stopping")
            notifier.stopping()
            history.tell("node-stopping")
            await _resign(shell)
        nursery.cancel_scope.cancel()
    if heir is not None:
        await bequeath(*heir, history.seq)


async def _start(nursery: trio.Nursery, name: str, task: Callable[..., Awaitable[None]], *args: Any) -> None:
    """Start a task of the node. What ends it is logged at once: the guard does not wait for the end of the clean-up."""

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        try:
            await task(*args, task_status=task_status)
        except Exception as error:
            if not isinstance(_first(error), ANSWERS):
                trace = traceback.format_exc()[-TRACE_CHARACTERS_MAX:]
                structlog.get_logger().critical("node.task-failed", task=name, reason=repr(error), trace=trace)
            raise

    await nursery.start(run)


async def _make_services(
    settings: Settings,
    me: Peer,
    keyring: Keyring,
    link: GuardLink,
    post: Callable[[Event], None],
    diversions: Diversions,
    door: Door,
    *,
    first: bool,
) -> tuple[tuple[AddressService, ...], Forwarding, tuple[MatchmakerService, ...]]:
    """Make what this node may serve. Changes nothing on the host.

    With `first` no other process runs this node already, so that its ports must be free, and nobody may answer at its
    addresses.
    """
    addresses = tuple(
        AddressService(settings.cluster, address, post, diversions.of_address(address.name))
        for address in settings.addresses
        if me.name in address.holders
    )
    backends = tuple(
        backend for backend in settings.backends if any(server.name == me.name for server in backend.servers)
    )
    listeners = (
        *frontend_listeners(settings, me),
        *(
            listener
            for backend in backends
            if backend.warm_standby
            for listener in view_listeners(settings, backend, me)
        ),
    )
    if first:
        require_free_ports((*listeners, door_listener(me)))
        for service in addresses:
            await require_no_stranger(settings, service.settings, me)

    def relay_changed(ready: bool, reason: str) -> None:
        for service in addresses:
            service.relay_changed(ready=ready, reason=reason)

    forwarding = Forwarding(
        listeners, relay_changed, settings.relay_workers, link.spawn_relay if link.present else None
    )
    matchmakers = [
        await open_matchmaker(
            settings=settings, backend=backend, me=me, keyring=keyring, door=door, forwarding=forwarding, post=post
        )
        for backend in backends
    ]
    return addresses, forwarding, tuple(matchmakers)


def _make_node(settings: Settings, me: Peer, votes: VoteFiles, orders: Orders) -> Node:
    plans = election_plans(settings)
    return Node(
        me=me.name,
        voters=tuple(peer.name for peer in settings.peers),
        plans=plans,
        timing=Timing(heartbeat_ms=settings.heartbeat_ms, lease_ms=settings.lease_ms),
        saved={plan.name: votes.read(plan.name) for plan in plans},
        now_ms=boot_ms(),
        serve_apart=settings.on_partition == "serve",
        orders=orders,
    )


def _tell_all(services: tuple[AddressService | Diversions, ...], event: LinkEvent) -> None:
    for service in services:
        service.link_changed(event)


async def _wait_for_end(stop_wanted: Callable[[], Awaitable[None]], parts: Parts) -> tuple[Channel, Legacy] | None:
    """Wait until this process should stop (None), or has let go for another one that takes its place."""
    heirs: list[tuple[Channel, Legacy]] = []
    async with trio.open_nursery() as nursery:

        async def stop() -> None:
            await stop_wanted()
            nursery.cancel_scope.cancel()

        nursery.start_soon(stop)
        heirs.append(await await_heir(parts))
        nursery.cancel_scope.cancel()
    return heirs[0] if heirs else None


def admin_socket(settings: Settings) -> Path:
    """Return where a node of this configuration answers its host's administrator."""
    return Path(settings.state_dir) / "admin.sock"


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _fencing_of_address(address: AddressService) -> Fencing:
    return Fencing(requests=address.farewell())


def _fencing_of_matchmaker(matchmaker: MatchmakerService, receivings: Receivings) -> Fencing:
    return msgspec.structs.replace(matchmaker.fencing(), requests=receivings.farewells(matchmaker.name))


async def _resign(shell: Shell) -> None:
    """Give up what this node leads, so that nobody waits for a timeout (rule 8)."""
    elections = shell.node.elections.values()
    with trio.move_on_after(STOP_S_MAX):
        for election in elections:
            shell.post(ResignationRequested(election.name, "the node is stopping"))
        while any(election.serving_term is not None for election in elections):  # noqa: ASYNC110 (core has no events)
            await trio.sleep(0.005)
