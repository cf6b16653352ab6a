"""Wills: for each election that this node serves, what the guard does in its name when this process dies.

Rule: the guard has the will before the serving begins, and keeps it until the serving is known to have ended.
"""

from collections.abc import Callable, Mapping

from gateway.config.settings import Endpoint
from gateway.control.guard import Fencing, GuardLink
from gateway.control.heartbeats import Heartbeats
from gateway.control.shell import Service
from gateway.core.actions import Cause
from gateway.core.changes import GUARD_SAYS
from gateway.core.node import Node
from gateway.core.timing import PATIENT_HEARTBEATS
from gateway.kernel.clock import boot_ms
from gateway.wire.heartbeat import encode
from gateway.wire.messages import Resignation
from gateway.wire.seal import WINDOW, Seal

# A letter takes one number of a peer's window of 64, and is no good to it once the window has passed. Half of the
# window is left to reordering, and to what one wake-up sends.
RESEAL_AFTER = WINDOW // 2
LOOK_AFTER = RESEAL_AFTER // 2  # datagrams, to all peers together
REASON = f"{GUARD_SAYS}this process has ended"


class Wills:
    """The wills of one node.

    Args:
        link: the way to the guard.
        node: the core: what it serves, and who should follow.
        heartbeats: how many datagrams have been sent.
        seal: seals the letters.
        peers: who gets them.
        fencings: by election, what ends its serving from outside.
    """

    def __init__(
        self,
        *,
        link: GuardLink,
        node: Node,
        heartbeats: Heartbeats,
        seal: Seal,
        peers: Mapping[str, Endpoint],
        fencings: Mapping[str, Callable[[], Fencing]],
    ) -> None:
        self._link = link
        self._node = node
        self._heartbeats = heartbeats
        self._seal = seal
        self._peers = dict(peers)
        self._fencings = dict(fencings)
        self._terms: dict[str, int] = {}  # election -> term of its will
        self._told: dict[str, tuple[int, Fencing]] = {}
        self._sealed_at: dict[str, int] = {}  # peer -> number of the oldest letter that is with the guard
        self._looked_at = 0
        self._look_at_ms = 0
        self._heirs: dict[str, str] = {}  # election -> successor named in its letters

    def of(self, election: str, service: Service) -> Service:
        """Return `service` with its will looked after."""
        return _Willed(election, service, self)

    def arm(self, election: str, term: int, until_ms: int) -> None:
        """Give the guard the will of an election that is about to be served."""
        if not self._terms:
            self._sealed_at = self._numbers()
        self._terms[election] = term
        self._tell(election, until_ms)
        self._write_letters(election)

    @property
    def step_ms(self) -> int:
        """By how much at least a lease is to grow before kernel and guard are told, which costs more than to know it.

        Of a lease of many heartbeats an eighth: they may end it so much too early then, never too late.
        """
        timing = self._node.timing
        return timing.lease_ms // PATIENT_HEARTBEATS if timing.patient else 0

    def extend(self, election: str, until_ms: int) -> None:
        """The lease goes on until `until_ms`."""
        if election in self._told:
            fencing = self._told[election][1]
            self._told[election] = until_ms, fencing
            if fencing.at_end:  # else the end of the lease is not the guard's concern
                self._link.extend(election, until_ms)

    def changed(self, election: str) -> None:
        """Other processes are to be killed from now on."""
        if election in self._terms:
            self._tell(election, self._told[election][0])

    def wake(self) -> None:
        """Say that this process lives; keep letters fresh, withdraw what is over. To be called at every wake-up."""
        self._link.beat()
        if not self._terms:
            return
        for election, term in list(self._terms.items()):
            if self._node.elections[election].serving_term != term:
                del self._terms[election], self._told[election]
                self._heirs.pop(election, None)
                self._link.clear(election)
        if self._letters_grow_old():
            self._sealed_at = self._numbers()
            for election in self._terms:
                self.refresh(election)
                self._write_letters(election)

    def _letters_grow_old(self) -> bool:
        """Tell whether a peer has got so many datagrams since its letters were sealed, or a better heir has come up."""
        sent, now_ms = self._heartbeats.sent_total + self._heartbeats.unsent.total(), boot_ms()
        if sent - self._looked_at < LOOK_AFTER and now_ms < self._look_at_ms:
            return False
        self._looked_at = sent
        self._look_at_ms = now_ms + self._node.timing.lease_ms // PATIENT_HEARTBEATS
        numbered = self._seal.numbered
        if any(numbered(peer) - at >= RESEAL_AFTER - LOOK_AFTER for peer, at in self._sealed_at.items()):
            return True
        elections = self._node.elections
        return any(elections[name].successor(now_ms) != heir for name, heir in self._heirs.items())

    def _numbers(self) -> dict[str, int]:
        return {peer: self._seal.numbered(peer) for peer in self._peers}

    def refresh(self, election: str) -> None:
        """Tell the guard again where something else is to be done than it knows."""
        if election in self._terms and self._fencings[election]() != self._told[election][1]:
            self.changed(election)

    def _tell(self, election: str, until_ms: int) -> None:
        self._told[election] = until_ms, self._fencings[election]()
        self._link.will(election, *self._told[election])

    def _write_letters(self, election: str) -> None:
        if not self._link.present:
            return  # a sealed letter that nobody can send costs a number of the window for nothing
        successor = self._node.elections[election].successor(boot_ms())
        payload = encode(Resignation(election, self._terms[election], REASON, successor))
        self._heirs[election] = successor
        self._link.letters(
            election,
            tuple(
                (endpoint.host, endpoint.port, self._seal.seal(peer, payload))
                # The successor is told last: when it asks the others for their votes, they are free to give them.
                for peer, endpoint in sorted(self._peers.items(), key=lambda entry: entry[0] == successor)
            ),
        )


class _Willed:
    """A service whose will is with the guard before it starts."""

    def __init__(self, election: str, service: Service, wills: Wills) -> None:
        self._election = election
        self._service = service
        self._wills = wills
        self._until_ms = 0

    def start(self, term: int, until_ms: int) -> None:
        self._until_ms = until_ms
        self._wills.arm(self._election, term, until_ms)
        self._service.start(term, until_ms)
        self._wills.refresh(self._election)  # a device that was made anew has another index

    def extend(self, until_ms: int) -> None:
        if until_ms - self._until_ms < self._wills.step_ms:
            return
        self._until_ms = until_ms
        self._wills.extend(self._election, until_ms)
        self._service.extend(until_ms)

    def stop(self, term: int, cause: Cause, *, at_once: bool) -> None:
        self._service.stop(term, cause, at_once=at_once)

    def announce_again(self) -> None:
        self._service.announce_again()
