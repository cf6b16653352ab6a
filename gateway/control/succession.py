"""Succession: a control process takes another's place without giving up what it holds, or leaves everything as it was.

What travels, and in which order, stands in `gateway.control.inheritance`; here are the two sides of it. Rule: from the
moment in which the old process lets go it takes no step, and it ends whatever happens.
"""

import os
import socket
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
import structlog
import trio

from gateway.control.address import AddressService
from gateway.control.forwarding import Forwarding
from gateway.control.guard import GuardLink
from gateway.control.heartbeats import Heartbeats
from gateway.control.inheritance import (
    ANSWER_S_MAX,
    DONE_S_MAX,
    FORMAT,
    SETTLE_S_MAX,
    Answer,
    Channel,
    Estate,
    MatchmakerState,
    Offer,
    RelayState,
    RelayWorker,
    TakeOverFailed,
)
from gateway.control.matchmaker import MatchmakerService
from gateway.control.shell import Shell
from gateway.control.wills import Wills
from gateway.core.actions import FollowLeader
from gateway.core.node import Node
from gateway.core.snapshot import NodeState, SnapshotRefused, capture, restore, unsettled
from gateway.wire.seal import Seal, SealState

SETTLE_LOOK_S = 0.002  # an election that is under way ends with a datagram or a write


class Keeper(Protocol):
    """What has changed the host, and leaves it so for a successor."""

    def keep(self) -> None:
        """Leave everything as it is at the end."""


class Parts(msgspec.Struct, frozen=True):
    """What a process has that another one may go on with."""

    node: Node
    seal: Seal
    heartbeats: Heartbeats
    shell: Shell
    forwarding: Forwarding
    link: GuardLink
    addresses: tuple[AddressService, ...]
    matchmakers: tuple[MatchmakerService, ...]
    cluster: str
    kept: tuple[Keeper, ...] = ()


class Inherited(msgspec.Struct, frozen=True):
    """What a predecessor has left, its sockets opened here."""

    node: NodeState
    seal: SealState
    relay: RelayState
    matchmakers: dict[str, MatchmakerState]
    history_seq: int
    heartbeats: tuple[socket.socket, ...]
    relay_ends: tuple[socket.socket, ...]  # one for each of `relay.workers`


class Legacy(msgspec.Struct, frozen=True):
    """What is left to a successor, with copies of the sockets that go along."""

    estate: Estate
    descriptors: tuple[int, ...]


# -- the old process ---------------------------------------------------------------------------------------------


async def await_heir(parts: Parts) -> tuple[Channel, Legacy]:
    """Let go for a process that is ready to take this one's place; what is not is told so, and forgotten.

    Returns:
        The way to that process, and what it is to get. No other task has run between the look that found no act under
        way and the letting go.
    """
    log = structlog.get_logger()
    link, node = parts.link, parts.node
    async for end in link.heirs:
        channel = Channel(end)
        log.info("reload.asked")
        try:
            await _settle(node)
            held = {one.name: one.place for one in parts.addresses if node.elections[one.name].serving_term is not None}
            channel.send(Offer(parts.cluster, held, capture(node), FORMAT))
            answer, _ = await channel.receive(ANSWER_S_MAX)
            if not isinstance(answer, Answer):
                raise TakeOverFailed("the new process does not answer what it was asked")
            if answer.refused:
                raise TakeOverFailed(answer.refused)
            await _settle(node)
        except TakeOverFailed as failure:
            link.reload_failure = str(failure)
            log.error("reload.refused", reason=str(failure))
            channel.close()
        else:
            return channel, let_go(parts)
    raise AssertionError("the guard link outlives the waiting for heirs")


def let_go(parts: Parts) -> Legacy:
    """Take no step any more; return what the successor needs. Called when no act is under way, and never twice."""
    heartbeats = parts.heartbeats.let_go()  # what arrives from now on is the successor's
    # Closing packet sockets waits for the kernel's readers: tens of milliseconds, seen from outside as a freeze.
    parts.link.ask_patience(round(DONE_S_MAX * 1000))
    parts.shell.close()
    relays = _let_relays_go(parts)
    for one in (*parts.addresses, *parts.kept):
        one.keep()
    estate = Estate(
        lanes=parts.heartbeats.lanes,
        node=capture(parts.node),
        seal=parts.seal.state(),
        relay=RelayState(workers=tuple(relays), routes=parts.forwarding.routes()),
        matchmakers={matchmaker.name: matchmaker.keep() for matchmaker in parts.matchmakers},
    )
    return Legacy(estate, (*heartbeats, *relays.values()))


def _let_relays_go(parts: Parts) -> dict[RelayWorker, int]:
    """Leave the relay processes running; return each with a copy of our end of its socket pair."""
    found = {}
    for number, relay in enumerate(parts.forwarding.workers.relays):
        token = parts.link.token_of(relay.pid)
        if relay.pid is None or token is None:
            continue  # it has just died, or is our own child and ends with us
        worker = RelayWorker(number=number, token=token, pid=relay.pid)
        if (end := relay.let_go()) is not None:
            found[worker] = end
    return found


async def bequeath(heir: Channel, legacy: Legacy, history_seq: int) -> None:
    """Hand over, once every task of this process has ended, and wait until the successor acts.

    `history_seq`: number of the last event that was told, at the end of all tasks.

    When it does not, the guard does this process' will, as at any other death.
    """
    log = structlog.get_logger()
    try:
        heir.send(msgspec.structs.replace(legacy.estate, history_seq=history_seq), legacy.descriptors)
        await heir.receive(DONE_S_MAX)
    except TakeOverFailed as failure:
        log.error("reload.lost", reason=str(failure))
        raise
    finally:
        for descriptor in legacy.descriptors:
            os.close(descriptor)
    log.info("node.handed-over")


async def _settle(node: Node) -> None:
    """Wait until no act is under way; no other task runs after the last look."""
    with trio.move_on_after(SETTLE_S_MAX):
        while unsettled(node):  # noqa: ASYNC110 (the core has no events)
            await trio.sleep(SETTLE_LOOK_S)
    if reason := unsettled(node):
        raise TakeOverFailed(f"{reason}: try again")


# -- the new process ---------------------------------------------------------------------------------------------


async def take_over(
    predecessor: Channel, make_node: Callable[[], Node], cluster: str, addresses: Mapping[str, str]
) -> Inherited:
    """Wait for what the running process leaves; it lets go only if its state fits this process' configuration.

    Args:
        predecessor: the way to the running process.
        make_node: makes a core of this process' configuration, to try the state on.
        cluster: the name of its cluster.
        addresses: its virtual addresses: name -> where.

    Raises:
        TakeOverFailed: it does not fit, or the running process has ended. Nothing has changed then.
    """
    offer, _ = await predecessor.receive(ANSWER_S_MAX)
    if not isinstance(offer, Offer):
        raise TakeOverFailed("the running process does not say what there is to take over")
    try:
        _require_same_place(offer, cluster, addresses)
        restore(make_node(), offer.node)
    except SnapshotRefused as refusal:
        predecessor.send(Answer(str(refusal)))
        raise TakeOverFailed(str(refusal)) from refusal
    predecessor.send(Answer(""))
    estate, descriptors = await predecessor.receive_estate()
    ends = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    return Inherited(
        node=estate.node,
        seal=estate.seal,
        relay=estate.relay,
        matchmakers=estate.matchmakers,
        history_seq=estate.history_seq,
        heartbeats=tuple(ends[: estate.lanes]),
        relay_ends=tuple(ends[estate.lanes :]),
    )


def _require_same_place(offer: Offer, cluster: str, addresses: Mapping[str, str]) -> None:
    """Refuse what would leave an address that is held where nobody knows of it: it would stay, without a lease."""
    if offer.format != FORMAT:
        raise SnapshotRefused("the running process is of a version that hands over otherwise: restart the node")
    if offer.cluster != cluster:
        raise SnapshotRefused(f"the cluster '{offer.cluster}' has become '{cluster}' in the file: restart the node")
    for name, place in offer.addresses.items():
        if (wanted := addresses.get(name, "gone")) != place:
            raise SnapshotRefused(
                f"this node holds '{name}' {place}, and in the file it is {wanted}: hand it over first"
            )


async def go_on(parts: Parts, was: Inherited, wills: Wills, follow: Callable[[FollowLeader], None]) -> None:
    """Serve what the predecessor served, in its terms and leases, and tell the guard that this process acts now."""
    restore(parts.node, was.node)
    parts.seal.take_over(was.seal)
    parts.forwarding.take_over(was.relay.routes)
    _adopt_relays(parts, was)
    elections = parts.node.elections
    for election in elections.values():
        if election.leader is not None:
            follow(FollowLeader(election.name, election.leader, election.leader_term))
    for matchmaker in parts.matchmakers:
        if (state := was.matchmakers.get(matchmaker.name)) is not None:
            election = elections[matchmaker.name]
            await matchmaker.resume(state, election.standing, election.serving_term, election.lease_until_ms)
    for address in parts.addresses:
        election = elections[address.name]
        if election.serving_term is not None:
            address.resume(election.serving_term, election.lease_until_ms)
        elif election.standing.fit:
            address.assume_fit()
    for name, election in elections.items():
        if election.serving_term is not None:
            wills.arm(name, election.serving_term, election.lease_until_ms)
    parts.link.taken_over()


def _adopt_relays(parts: Parts, was: Inherited) -> None:
    """Go on with the predecessor's relays; those that are too many now end, and their clients are reset."""
    relays = parts.forwarding.workers.relays
    for worker, end in zip(was.relay.workers, was.relay_ends, strict=False):
        try:
            process = parts.link.adopt_relay(worker.token, worker.pid)
        except ProcessLookupError:
            end.close()  # it has died meanwhile: another one is started
            continue
        if worker.number < len(relays):
            relays[worker.number].adopt(end, process)
        else:
            structlog.get_logger().info("relay.dismissed", worker=worker.number, pid=worker.pid)
            end.close()  # it ends by that
