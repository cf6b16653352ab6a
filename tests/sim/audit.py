"""Audit: the promises of the election, judged in true time by somebody who sees every host. Changes nothing.

S1: one leader a term. S2: never two unexpired leases. S5: no message before the vote it depends on is durable, and no
second vote in a term, also across crashes. A lease that a crash or a freeze leaves behind counts until its end: the
kernel's fence lives as long.

Under `on-partition serve` two may hold a lease at once, but only while nothing of the other arrives: every grant that
makes or prolongs such an overlap is judged by what its host had read, or had had the time to read. Where disks lie or
machines go back in time a term may have two leaders and a voter two votes; never are there two leases.
"""

from gateway.core.actions import Action, ExtendServing, PersistVote, StartServing
from gateway.core.node import Node, SavedVote
from gateway.core.voter import Role
from gateway.wire.messages import Message, Resignation, VoteReply, VoteRequest

from .shapes import Shape

NEVER_US = -(10**18)  # before anything began


class Violation(AssertionError):  # noqa: N818 - it is not an error of the program that raises it
    """A promise is broken; says which, by whom, when."""


class Audit:
    """Sees what hosts do, and raises `Violation`.

    Args:
        shape: the cluster.
        weak: whether votes may be lost from disks.
    """

    def __init__(self, shape: Shape, *, weak: bool = False) -> None:
        self.names = shape.voters
        self.serve = shape.serve
        self.weak = weak
        self.leaders: dict[tuple[str, int], int] = {}  # (election, term) -> host
        self.ballots: dict[tuple[str, int, int], str] = {}  # (election, term, host) -> whom it voted for
        # election -> host -> (term, true end of its lease, who was silent); gone once its stop is confirmed
        self.holders: dict[str, dict[int, tuple[int, int, frozenset[int]]]] = {plan.name: {} for plan in shape.plans}
        self.decided_ms: dict[tuple[int, str], int] = {}  # (host, election) -> end of the lease, on its own clock
        self.heard_us: dict[tuple[int, int], int] = {}  # (host, peer) -> when something of that peer was last read
        self.unread_us: dict[tuple[int, int], int] = {}  # (host, peer) -> since when something lies in the socket
        # by host: who was silent when it decided upon what it does now (a freeze may have come between)
        self.silent: list[frozenset[int]] = [frozenset()] * len(shape.voters)
        self.quiet_until_us = [0] * len(shape.voters)
        self.late_us = [0] * len(shape.voters)  # by host: a freeze of so long is noticed for certain
        self.apart_us = [0] * len(shape.voters)  # by host: silence after which it counts a peer as cut off
        self.started = 0
        self.starts: list[tuple[str, int]] = []  # (election, when), for whoever wants to know who came when
        self.overlaps: dict[tuple[str, int, int], tuple[int, int]] = {}  # (election, both terms) -> (from, to)

    # -- leases --------------------------------------------------------------------------------------------------

    def start(self, host: int, action: StartServing, true_us: int, end_us: int) -> None:
        """A host begins to serve."""
        key = (action.election, action.term)
        if key in self.leaders and not self.weak:
            raise Violation(f"S1: {self.names[host]} and {self.names[self.leaders[key]]} lead {key}")
        self.leaders[key] = host
        self.started += 1
        self.starts.append((action.election, true_us))
        self._grant(host, action.election, action.term, true_us, end_us)

    def extend(self, host: int, action: ExtendServing, true_us: int, end_us: int) -> None:
        """A host's lease moves on."""
        if end_us <= true_us:
            return  # a freeze came between: there is nothing left to extend
        held = self.holders[action.election].get(host)
        if held is None or held[0] != action.term:
            raise Violation(f"{self.names[host]} extends {action}, and holds {held}")
        if end_us < held[1]:
            raise Violation(f"{self.names[host]} moves its lease back: {action}")
        self._grant(host, action.election, action.term, true_us, end_us)

    def _grant(self, host: int, election: str, term: int, true_us: int, end_us: int) -> None:
        holders = self.holders[election]
        silent = self.silent[host]
        for other, (other_term, other_end_us, other_silent) in holders.items():
            if other != host and other_end_us > true_us and end_us > true_us:
                if other not in silent or host not in other_silent:
                    raise Violation(
                        f"S2: {self.names[host]} (term {term}) and {self.names[other]} (term {other_term}) "
                        f"both hold {election}, for {min(end_us, other_end_us) - true_us} us"
                    )
                terms = (election, min(term, other_term), max(term, other_term))
                began_us = self.overlaps.get(terms, (true_us, 0))[0]
                self.overlaps[terms] = (began_us, min(end_us, other_end_us))
        holders[host] = (term, end_us, silent)

    def began(self, host: int, true_us: int, quiet_us: int) -> None:
        """A host's process has started: it has forgotten what it heard, and is silent for a while (rule 4)."""
        self.forgot(host, true_us + quiet_us)

    def went_back(self, host: int, core: Node) -> None:
        """A machine is as it was: what it has granted and heard since then is gone, its kernel's leases with it."""
        self.forgot(host, 0)
        for name, holders in self.holders.items():
            if core.elections[name].serving_term is None:
                holders.pop(host, None)

    def forgot(self, host: int, quiet_until_us: int) -> None:
        """A host knows no more what it has heard lately."""
        self.quiet_until_us[host] = quiet_until_us
        for peer in range(len(self.names)):
            self.heard_us.pop((host, peer), None)
            self.unread_us.pop((host, peer), None)

    def _silent(self, host: int, true_us: int) -> frozenset[int]:
        """Return the peers of which nothing has arrived at `host` for so long that it may count them as cut off."""
        if true_us < self.quiet_until_us[host]:
            return frozenset()
        since_us = true_us - self.apart_us[host]
        late_us = true_us - self.late_us[host]  # who was stopped for less need not notice
        return frozenset(
            peer
            for peer in range(len(self.names))
            if self.heard_us.get((host, peer), NEVER_US) <= since_us
            and self.unread_us.get((host, peer), true_us) >= late_us
        )

    def stop(self, host: int, election: str, term: int) -> None:
        """A host has stopped serving, for good."""
        if self.holders[election].get(host, (None, 0))[0] == term:
            del self.holders[election][host]

    def serving(self, election: str, true_us: int) -> list[int]:
        """Return the hosts that hold an unexpired lease: at most one, but under `serve`."""
        return [host for host, (_, end_us, _) in self.holders[election].items() if end_us > true_us]

    # -- votes ---------------------------------------------------------------------------------------------------

    def sending(self, host: int, to: str, message: Message, disk: dict[str, SavedVote], true_us: int) -> None:
        """A message other than a pulse or its answer leaves."""
        match message:
            case VoteRequest(election, term, pre=False):
                self._vote(host, election, term, self.names[host], disk)
            case VoteReply(election, term, pre=False, granted=True):
                self._vote(host, election, term, to, disk)
            case Resignation(election, term):
                held_term, end_us, _ = self.holders[election].get(host, (None, 0, None))
                if held_term == term and end_us > true_us:
                    raise Violation(f"rule 8: {self.names[host]} resigns {election} {term} and still serves")

    def _vote(self, host: int, election: str, term: int, candidate: str, disk: dict[str, SavedVote]) -> None:
        saved = disk.get(election)
        if saved != SavedVote(term, candidate):
            raise Violation(f"S5: {self.names[host]} votes for {candidate} in {election} {term}; its disk has {saved}")
        before = self.ballots.setdefault((election, term, host), candidate)
        if before != candidate and not self.weak:
            raise Violation(f"S5: {self.names[host]} votes for {before} and {candidate} in {election} {term}")

    def persisting(self, host: int, action: PersistVote, disk: dict[str, SavedVote]) -> None:
        """A vote is about to be written."""
        saved = disk.get(action.election)
        if saved is None or self.weak:
            return
        if action.term < saved.term:
            raise Violation(f"S5: the term on the disk of {self.names[host]} goes back: {saved} -> {action}")
        if action.term == saved.term and action.vote != saved.vote:
            raise Violation(f"S5: {self.names[host]} writes a second vote in a term: {saved} -> {action}")

    # -- a node's own state --------------------------------------------------------------------------------------

    def stepped(
        self, host: int, node: Node, actions: list[Action], now_ms: int, deadline_ms: int, true_us: int
    ) -> None:
        """A step is over, its actions not yet carried out."""
        if self.serve and actions:
            self.silent[host] = self._silent(host, true_us)
        for action in actions:
            kind = type(action)
            if kind is StartServing:
                self.decided_ms[host, action.election] = action.until_ms
            elif kind is ExtendServing:
                ended_ms = self.decided_ms[host, action.election]
                if now_ms >= ended_ms:
                    raise Violation(f"{self.names[host]} revives at {now_ms} a lease that ended at {ended_ms}")
                self.decided_ms[host, action.election] = action.until_ms
        for election in node.elections.values():
            if election.serving_term is None:
                continue
            if election.role is Role.LEADER:
                if now_ms >= election.lease_until_ms:
                    raise Violation(f"S2: {self.names[host]} leads {election.name} after its lease, at {now_ms}")
                if deadline_ms > election.lease_until_ms:
                    raise Violation(f"S2: {self.names[host]} would sleep through the end of its lease")

    def bounded(self, node: Node) -> None:
        """Memory depends on the size of the cluster, never on time (S14)."""
        hosts = len(self.names)
        if len(node.heard_ms) > hosts or len(node.primed_by) > hosts:
            raise Violation(f"S14: {node.me} remembers more peers than there are")
        for election in node.elections.values():
            if max(len(election.ranking.heard), len(election.lease.answers), len(election.granted)) > hosts:
                raise Violation(f"S14: {node.me} remembers more answers than there are nodes")
