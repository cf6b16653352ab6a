"""Snapshot: what one process hands to the next that takes its place, so that promises and leases outlive it. Pure.

The successor runs on the same host and judges by the same CLOCK_BOOTTIME, so that all times keep their meaning. It is
handed over only between two elections' acts: no vote on its way to the disk, no candidacy, no stop under way. What
could not be handed over whole is not handed over at all; then the node gives up what it leads and starts anew.
"""

import msgspec

from gateway.core.election import Election
from gateway.core.node import Node
from gateway.core.orders import merge
from gateway.core.voter import Role
from gateway.wire.messages import Orders, Standing

FORMAT = 3  # of all that is handed over; another number is another set of fields: such a snapshot is not taken


class SnapshotRefused(Exception):  # noqa: N818 (an answer to the operator)
    """This state can't be handed over, or does not fit the node that should take it."""


class ElectionState(msgspec.Struct, frozen=True, kw_only=True):
    """One election between two acts; the fields are those of `Election` and its parts."""

    role: str
    term: int
    vote: str | None
    leader: str | None
    leader_term: int
    leader_until_ms: int
    quiet_until_ms: int
    promise_to: str | None
    promise_term: int
    promise_until_ms: int
    resigned_term: int
    courtesy_to: str | None
    courtesy_until_ms: int
    heard: dict[str, tuple[Standing, int]]
    standing: Standing
    unfit_why: str
    stand_at_ms: int
    lease_answers: dict[str, int]
    lease_until_ms: int
    lease_since_ms: int
    serving_term: int | None


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """A node between two acts."""

    format: int
    me: str
    voters: tuple[str, ...]
    lease_ms: int
    elections: dict[str, ElectionState]
    primed: tuple[str, ...]
    primed_by: dict[str, tuple[str, ...]]
    heard_ms: dict[str, int]
    orders: Orders


def unsettled(node: Node) -> str:
    """Say what forbids to hand `node` over now; "" for nothing."""
    if node.book.writing is not None:
        return "an order is on its way to the disk"
    for election in node.elections.values():
        if election.persisting is not None:
            return f"a vote in '{election.name}' is on its way to the disk"
        if election.role is Role.ELECTION:
            return f"this node stands in '{election.name}'"
        if election.serving_term is not None and election.role is not Role.LEADER:
            return f"'{election.name}' is being stopped"
    return ""


def capture(node: Node) -> NodeState:
    """Return the state of `node`, which must take no step after this.

    Raises:
        SnapshotRefused: an act is under way (`unsettled`).
    """
    if reason := unsettled(node):
        raise SnapshotRefused(reason)
    return NodeState(
        format=FORMAT,
        me=node.me,
        voters=node.voters,
        lease_ms=node.timing.lease_ms,
        elections={name: _capture_election(election) for name, election in node.elections.items()},
        primed=node.primed,
        primed_by=dict(node.primed_by),
        heard_ms=dict(node.heard_ms),
        orders=node.book.orders,
    )


def restore(node: Node, state: NodeState) -> None:
    """Give `node`, which has taken no step yet, the state of its predecessor. Elections that are new start as they do.

    Raises:
        SnapshotRefused: it was taken of another node, or of another cluster.
    """
    if state.format != FORMAT:
        raise SnapshotRefused(f"the running process hands over format {state.format}, this one takes {FORMAT}")
    if state.me != node.me:
        raise SnapshotRefused(f"the running process is node '{state.me}', the file makes this one '{node.me}'")
    if set(state.voters) != set(node.voters):
        raise SnapshotRefused("the peers have changed, and with them what a majority is: restart the nodes one by one")
    for name, was in state.elections.items():
        election = node.elections.get(name)
        if election is None or (was.serving_term is not None and node.me not in election.candidates):
            if was.serving_term is not None:
                raise SnapshotRefused(f"this node serves '{name}', and the file does not let it: hand it over first")
            continue
        _restore_election(election, was)
        if node.timing.lease_ms > state.lease_ms:
            # Promises were made for the shorter lease: only who answers from now on has made one for the longer.
            election.lease.answers, election.lease.since_ms = {}, node.started_ms + 1
    node.primed = state.primed
    node.primed_by = dict(state.primed_by)
    node.heard_ms.update(state.heard_ms)
    node.book.put_in_force(merge(node.book.orders, state.orders))
    node.step_soon()


def _capture_election(election: Election) -> ElectionState:
    return ElectionState(
        role=election.role.value,
        term=election.term,
        vote=election.vote,
        leader=election.leader,
        leader_term=election.leader_term,
        leader_until_ms=election.leader_until_ms,
        quiet_until_ms=election.quiet_until_ms,
        promise_to=election.promise.to,
        promise_term=election.promise.term,
        promise_until_ms=election.promise.until_ms,
        resigned_term=election.resigned_term,
        courtesy_to=election.courtesy_to,
        courtesy_until_ms=election.courtesy_until_ms,
        heard=dict(election.ranking.heard),
        standing=election.standing,
        unfit_why=election.unfit_why,
        stand_at_ms=election.stand_at_ms,
        lease_answers=dict(election.lease.answers),
        lease_until_ms=election.lease.until_ms,
        lease_since_ms=election.lease.since_ms,
        serving_term=election.serving_term,
    )


def _restore_election(election: Election, was: ElectionState) -> None:
    election.role = Role(was.role)
    election.term, election.vote = was.term, was.vote
    election.leader, election.leader_term = was.leader, was.leader_term
    election.leader_until_ms = was.leader_until_ms
    election.quiet_until_ms = was.quiet_until_ms
    election.promise.to, election.promise.term = was.promise_to, was.promise_term
    election.promise.until_ms = was.promise_until_ms
    election.resigned_term = was.resigned_term
    election.courtesy_to, election.courtesy_until_ms = was.courtesy_to, was.courtesy_until_ms
    election.ranking.heard = {name: heard for name, heard in was.heard.items() if name in election.candidates}
    election.standing = was.standing
    election.unfit_why = was.unfit_why
    election.stand_at_ms = was.stand_at_ms
    election.lease.answers = {name: sent for name, sent in was.lease_answers.items() if name in election.voters}
    election.lease.until_ms = was.lease_until_ms
    election.lease.since_ms = was.lease_since_ms
    election.serving_term = was.serving_term
