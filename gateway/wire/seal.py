"""Seal: which datagrams were made by a peer of this cluster, for me, since I started, and not seen before.

Rule: no clock and no randomness in here; whatever is not proven fresh yields no payload, and a refusal has a name.

A datagram is

    version u8 | key id u8 | cluster tag 4 | nonce 12 | AES-256-GCM-SIV( head, sender name, payload ) | tag 16

with the clear header, the cluster's name and the *receiver's* name as associated data: a datagram for another cluster
or another node does not open. (ANSWER in the version's byte says that it may wait.) GCM-SIV (RFC 8452) forgives a
repeated nonce, which is what a virtual machine rolled back to a snapshot produces. The nonce is derived from (boot id,
receiver, sequence).

Freshness. Each process has a random *boot id*. For each peer it counts the boots of it that it has confirmed: its
*epoch* towards that peer. Every datagram carries the sender's boot id and epoch and echoes the receiver's. Then:

1. A boot id is *confirmed* only by a datagram that echoes my boot id and my present epoch. Such a datagram was made
   after I last confirmed another boot of that peer, so it is not a recording from before. The epoch then grows, and
   the sequence window starts at that datagram: everything below it counts as seen.
2. A payload is delivered only from the confirmed boot, with an echo of my boot id and a sequence not seen before
   (window of 64, RFC 4303 §3.4.3).
3. A datagram from an unconfirmed boot without that echo (first contact, a restart, or a replay: they look the same)
   changes nothing, and is answered by one empty *hello* that echoes what it claimed. If its sender lives, it now
   knows my boot id and can prove itself. Per boot id there is one hello between two payloads of my own, and a hello
   is the shortest datagram there is: a flood of recordings earns a trickle.
4. The boot that a confirmed one replaced is refused for ever (the last 64 of each peer are remembered). That matters
   for a process that comes back from a snapshot: it has forgotten promises, and must be restarted to be heard.

A and B know each other after: A's datagram, B's hello, A's hello; in whichever order they start.
"""

import hashlib
import struct
from collections import Counter, deque
from collections.abc import Collection, Mapping
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from gateway.wire.errors import Malformed, Reason

VERSION: Final = 1
ANSWER: Final = 0x80  # in the version's byte: nothing in here is urgent; a receiver may let it wait for a heartbeat
KEY_BYTES: Final = 32
BOOT_ID_BYTES: Final = 16
NAME_BYTES_MAX: Final = 64  # of a node; the sender's name travels in every datagram
PAYLOAD_BYTES_MAX: Final = 4096  # a usual heartbeat has 100-400; above some 1300 the network fragments it
WINDOW: Final = 64  # datagrams of reordering: 3 s of heartbeats at 50 ms
RETIRED_MAX: Final = 64  # replaced boots remembered; older ones are still refused by their epoch
GREETED_MAX: Final = 16  # different boot ids answered between two datagrams of our own

_HEADER: Final = struct.Struct("!BB4s12s")
_HEAD: Final = struct.Struct("!16sL16sLBQB")  # boot, epoch, echoed boot, echoed epoch, knows, sequence, name length
_TAG_BYTES: Final = 16
_CLEAR_BYTES: Final = 6  # version, key id, cluster tag: authenticated, not hidden
_NOBODY: Final = bytes(BOOT_ID_BYTES)
_ALL_SEEN: Final = (1 << WINDOW) - 1

DATAGRAM_BYTES_MIN: Final = _HEADER.size + _HEAD.size + 1 + _TAG_BYTES
DATAGRAM_BYTES_MAX: Final = _HEADER.size + _HEAD.size + NAME_BYTES_MAX + PAYLOAD_BYTES_MAX + _TAG_BYTES


class Keyring:
    """The cluster's keys by id (0-255). `active` seals; all of them open, so that a key can be rotated."""

    def __init__(self, keys: Mapping[int, bytes], active: int) -> None:
        if active not in keys:
            raise ValueError(f"the active key {active} is not among the keys {sorted(keys)}")
        for key_id, key in keys.items():
            if not 0 <= key_id <= 255:
                raise ValueError(f"key id {key_id} is not between 0 and 255")
            if len(key) != KEY_BYTES:
                raise ValueError(f"key {key_id} has {len(key)} bytes; a key has {KEY_BYTES}")
        self.active = active
        self._keys = dict(keys)
        self._ciphers = {key_id: AESGCMSIV(key) for key_id, key in keys.items()}

    def encrypt(self, nonce: bytes, plain: bytes, associated: bytes) -> bytes:
        """Seal with the active key."""
        return self._ciphers[self.active].encrypt(nonce, plain, associated)

    def decrypt_untrusted(self, key_id: int, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
        """Open with key `key_id`. Raises `Malformed` (UNKNOWN_KEY, BAD_SEAL)."""
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise Malformed(Reason.UNKNOWN_KEY, f"key id {key_id}")
        try:
            return cipher.decrypt(nonce, sealed, associated)
        except InvalidTag:
            raise Malformed(Reason.BAD_SEAL) from None

    def session_cipher(self, key_id: int, transcript: bytes) -> AESGCMSIV:
        """Return a cipher for one session: its key depends on all of `transcript`. Raises `Malformed` (UNKNOWN_KEY)."""
        key = self._keys.get(key_id)
        if key is None:
            raise Malformed(Reason.UNKNOWN_KEY, f"key id {key_id}")
        return AESGCMSIV(hashlib.blake2b(transcript, key=key, digest_size=KEY_BYTES, person=b"session").digest())


class Opened(msgspec.Struct, frozen=True):
    """An authentic datagram. No payload: a greeting. With `reply_to`: send `Seal.hello(reply_to)` there at once."""

    sender: str
    payload: bytes | None
    reply_to: str | None


class _Run(msgspec.Struct, frozen=True):
    """One run of a peer, and how many of my runs it had confirmed when it last spoke."""

    boot: bytes
    epoch: int


class PeerState(msgspec.Struct, frozen=True, kw_only=True):
    """What one process knew of one peer; times and windows are those of `Seal`."""

    sequence: int
    epoch: int
    boot: bytes  # of the confirmed run; b"" for none
    boot_epoch: int
    highest: int
    seen: int  # as 8 bytes of bits
    retired: tuple[bytes, ...]


class SealState(msgspec.Struct, frozen=True, kw_only=True):
    """A seal that is handed to the process that takes this one's place: to the peers, both are one run."""

    boot_id: bytes
    peers: dict[str, PeerState]


class _Head(msgspec.Struct, frozen=True):
    """What stands before the payload, decoded."""

    sender: str
    run: _Run
    echo: _Run
    knows: bool  # the sender has confirmed the boot that it echoes
    sequence: int
    payload: bytes


class _Window:
    """Sequences seen of one boot: the highest, and a bit for each of the 64 up to it."""

    def __init__(self, first: int) -> None:
        self._highest = first
        self._seen = _ALL_SEEN  # what was sent before the boot was confirmed is not proven fresh

    @property
    def state(self) -> tuple[int, int]:
        """Return the highest sequence, and the bits."""
        return self._highest, self._seen

    @classmethod
    def of(cls, highest: int, seen: int) -> "_Window":
        """Return the window with this state."""
        window = cls(highest)
        window._seen = seen
        return window

    def admit(self, sequence: int) -> bool:
        """Mark `sequence` as seen; False where it was seen already or is too old to tell."""
        ahead = sequence - self._highest
        if ahead > 0:
            self._seen = ((self._seen << ahead) | 1) & _ALL_SEEN if ahead < WINDOW else 1
            self._highest = sequence
            return True
        if ahead <= -WINDOW or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True


class _Peer:
    """What I know of one peer."""

    def __init__(self) -> None:
        self.sequence = 0  # of my last datagram to it
        self.epoch = 0  # how many of its boots I have confirmed
        self.confirmed: _Run | None = None
        self.window = _Window(0)
        self.claimed: _Run | None = None  # whom the next hello answers
        self.retired: deque[bytes] = deque(maxlen=RETIRED_MAX)
        self.greeted: set[bytes] = set()  # boots answered since my last datagram of my own

    def confirm(self, head: _Head) -> None:
        """Believe that `head` was made by the peer's present run."""
        if self.confirmed is not None:
            self.retired.append(self.confirmed.boot)
        self.confirmed = head.run
        self.window = _Window(head.sequence)
        self.epoch += 1


class Seal:
    """Seals datagrams for the peers of one node, and opens theirs. One object for the life of a process.

    Args:
        cluster: the cluster's name, from the configuration.
        keyring: the cluster's keys.
        me: this node's name.
        boot_id: 16 random bytes, new at each start of the process, never used before.
        peers: names of the other nodes (my own among them is ignored).
    """

    def __init__(self, cluster: str, keyring: Keyring, me: str, boot_id: bytes, peers: Collection[str]) -> None:
        if len(boot_id) != BOOT_ID_BYTES or boot_id == _NOBODY:
            raise ValueError(f"a boot id is {BOOT_ID_BYTES} random bytes, not {boot_id!r}")
        for name in (me, *peers):
            if not 0 < len(name.encode()) <= NAME_BYTES_MAX:
                raise ValueError(f"node name {name!r} does not have 1 to {NAME_BYTES_MAX} bytes")
        self.refused: Counter[Reason] = Counter()
        self.greetings = 0  # hellos asked for
        self._keyring = keyring
        self._me = me
        self._boot_id = boot_id
        self._cluster_tag = hashlib.sha256(cluster.encode()).digest()[:4]
        self._name = me.encode()
        self._names = {name: name.encode() for name in (me, *peers)}
        # Lengths first, so that no two (cluster, receiver) pairs give the same bytes.
        self._receivers = {name: bytes((len(sent),)) + sent + cluster.encode() for name, sent in self._names.items()}
        self._peers = {name: _Peer() for name in peers if name != me}

    @property
    def me(self) -> str:
        """Name of this node."""
        return self._me

    def state(self) -> SealState:
        """Return what a successor of this process needs. Nothing may be sealed or opened with this object after it."""
        return SealState(
            boot_id=self._boot_id, peers={name: self._peer_state(peer) for name, peer in self._peers.items()}
        )

    @staticmethod
    def _peer_state(peer: _Peer) -> PeerState:
        highest, seen = peer.window.state
        return PeerState(
            sequence=peer.sequence,
            epoch=peer.epoch,
            boot=b"" if peer.confirmed is None else peer.confirmed.boot,
            boot_epoch=0 if peer.confirmed is None else peer.confirmed.epoch,
            highest=highest,
            seen=seen,
            retired=tuple(peer.retired),
        )

    def take_over(self, state: SealState) -> None:
        """Go on where a predecessor on this host stopped; peers that it did not know begin as they do.

        The seal must have been made with the predecessor's boot id.
        """
        assert state.boot_id == self._boot_id, "a successor seals with its predecessor's boot id"
        for name, was in state.peers.items():
            peer = self._peers.get(name)
            if peer is None:
                continue
            peer.sequence, peer.epoch = was.sequence, was.epoch
            peer.confirmed = _Run(was.boot, was.boot_epoch) if was.boot else None
            peer.window = _Window.of(was.highest, was.seen)
            peer.retired.extend(was.retired)

    def knows(self, peer: str) -> bool:
        """Whether a run of `peer` has been confirmed since my start (it may have ended since)."""
        return self._peers[peer].confirmed is not None

    def numbered(self, to: str) -> int:
        """Return how many datagrams have been sealed for a peer: the number of the last one."""
        return self._peers[to].sequence

    def seal(self, to: str, payload: bytes, *, urgent: bool = True) -> bytes:
        """Seal 1 to 4096 bytes for `to`. Raises `KeyError` for a stranger: our own mistake."""
        assert 0 < len(payload) <= PAYLOAD_BYTES_MAX, f"a payload of {len(payload)} bytes can't be sealed"
        peer = self._peers[to]
        peer.greeted.clear()
        return self._datagram(to, peer, peer.confirmed, payload, VERSION if urgent else VERSION | ANSWER)

    def hello(self, to: str) -> bytes:
        """Seal an empty datagram that answers the last greeting of `to`; see `Opened.reply_to`."""
        peer = self._peers[to]
        return self._datagram(to, peer, peer.claimed or peer.confirmed, b"")

    def open_untrusted(self, datagram: bytes) -> Opened:
        """Open a datagram from the network.

        Raises:
            Malformed: with the reason, which is also counted in `refused`. Nothing else has changed then.
        """
        try:
            head = self._decode_untrusted(datagram)
            return self._judge_untrusted(head)
        except Malformed as refusal:
            self.refused[refusal.reason] += 1
            raise

    def _datagram(self, to: str, peer: _Peer, echo: _Run | None, payload: bytes, version: int = VERSION) -> bytes:
        peer.sequence = sequence = peer.sequence + 1
        if echo is None:
            echoed_boot, echoed_epoch, knows = _NOBODY, 0, False
        else:
            echoed_boot, echoed_epoch = echo.boot, echo.epoch
            knows = peer.confirmed is not None and peer.confirmed.boot == echoed_boot
        name = self._name
        head = _HEAD.pack(self._boot_id, peer.epoch, echoed_boot, echoed_epoch, knows, sequence, len(name))
        salt = self._names[to] + sequence.to_bytes(8, "big")
        nonce = hashlib.blake2b(salt, key=self._boot_id, digest_size=12).digest()
        header = _HEADER.pack(version, self._keyring.active, self._cluster_tag, nonce)
        return header + self._keyring.encrypt(nonce, head + name + payload, self._associated(header, to))

    def _associated(self, header: bytes, receiver: str) -> bytes:
        return header[:_CLEAR_BYTES] + self._receivers[receiver]

    def _decode_untrusted(self, datagram: bytes) -> _Head:
        if len(datagram) < DATAGRAM_BYTES_MIN:
            raise Malformed(Reason.TOO_SHORT, f"{len(datagram)} bytes")
        if len(datagram) > DATAGRAM_BYTES_MAX:
            raise Malformed(Reason.TOO_LONG, f"{len(datagram)} bytes")
        version, key_id, cluster_tag, nonce = _HEADER.unpack_from(datagram)
        if version & ~ANSWER != VERSION:
            raise Malformed(Reason.UNKNOWN_VERSION, f"version {version & ~ANSWER}")
        if cluster_tag != self._cluster_tag:
            raise Malformed(Reason.WRONG_CLUSTER)
        plain = self._keyring.decrypt_untrusted(
            key_id, nonce, datagram[_HEADER.size :], self._associated(datagram, self._me)
        )
        boot, epoch, echoed_boot, echoed_epoch, knows, sequence, name_bytes = _HEAD.unpack_from(plain)
        end = _HEAD.size + name_bytes
        sender = plain[_HEAD.size : end].decode(errors="replace")
        if len(plain) < end or boot == _NOBODY:
            raise Malformed(Reason.BAD_PAYLOAD, "head does not fit")
        if sender not in self._peers:
            raise Malformed(Reason.UNKNOWN_PEER, repr(sender))
        return _Head(sender, _Run(boot, epoch), _Run(echoed_boot, echoed_epoch), bool(knows), sequence, plain[end:])

    def _judge_untrusted(self, head: _Head) -> Opened:
        peer = self._peers[head.sender]
        echoes_me = head.echo.boot == self._boot_id
        if head.run.boot in peer.retired:
            raise Malformed(Reason.STALE_BOOT, f"{head.sender} has restarted since")
        if peer.confirmed is None or head.run.boot != peer.confirmed.boot:
            if not echoes_me or head.echo.epoch != peer.epoch:
                if not self._may_greet(head, peer):
                    raise Malformed(Reason.STALE_BOOT, f"{head.sender} was answered already")
                return Opened(head.sender, None, head.sender)
            peer.confirm(head)
        elif not peer.window.admit(head.sequence):
            raise Malformed(Reason.REPLAYED, f"{head.sender} sequence {head.sequence}")
        elif head.run.epoch > peer.confirmed.epoch:
            peer.confirmed = head.run
        # From here on it is proven that the sender's present run made this, once. Does it know me as well?
        mutual = echoes_me and head.knows
        reply_to = None if mutual or not self._may_greet(head, peer) else head.sender
        return Opened(head.sender, head.payload if echoes_me and head.payload else None, reply_to)

    def _may_greet(self, head: _Head, peer: _Peer) -> bool:
        """Whether `head` may be answered by a hello; then that hello is prepared."""
        if head.run.boot in peer.greeted or len(peer.greeted) >= GREETED_MAX:
            return False
        peer.greeted.add(head.run.boot)
        peer.claimed = head.run
        self.greetings += 1
        return True
