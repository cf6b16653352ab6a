"""Neighbours: who else on the segment claims the address. Asks and listens; claims and changes nothing itself."""

import socket
from collections.abc import Callable

import trio

from gateway.kernel import claims, ethernet, frames
from gateway.kernel.ethernet import FRAME_BYTES_MAX

CLAIM_REPEAT_S = 1.0  # one host's claim is reported at most so often: a flood must not become our own load
CLAIMANTS_MAX = 16  # more claimants than hosts that can be misconfigured at once are a flood
ASK_EVERY_S = 1.0  # how often a claimant is asked whether it still holds the address
ASK_WAIT_MS = 300
ASK_COUNT = 2
OWN_MACS_EVERY_S = 1.0  # a device of this host may get another MAC; asking the kernel takes 0.1 ms


async def who_has(ip: str, device: str, *, wait_ms: int, count: int) -> frozenset[str]:
    """Ask the segment `count` times within `wait_ms` who holds `ip`; return the MACs that say "I do".

    Asks as duplicate address detection does (RFC 5227 §2.1.1, RFC 4862 §5.4.2), which changes nobody's cache. The
    MACs of this host's own devices are left out. Takes the whole `wait_ms`, because more than one host may answer.

    Raises:
        KernelRefused: no permission for a raw socket, no such device, or not Ethernet.
        ValueError: `ip` is not an IP address.
    """
    own_macs = ethernet.local_macs()
    return await answering_macs(ip, device, wait_ms=wait_ms, count=count) - own_macs


async def answering_macs(ip: str, device: str, *, wait_ms: int, count: int) -> frozenset[str]:
    """As `who_has`, the MACs of this host's other devices included: Linux may answer by each of them (ARP flux)."""
    packed = claims.packed_of(ip)
    claimants: set[str] = set()
    opened = _listen(packed, device)
    probe = frames.question_frame(ip, ethernet.mac_of(opened))
    with trio.socket.from_stdlib_socket(opened) as listening:
        asked = trio.current_time()
        for turn in range(1, count + 1):
            _send(opened, probe)
            with trio.move_on_at(asked + wait_ms / 1000 * turn / count):
                while True:  # until this turn's share of the time is over
                    claimant = await _receive_claim(listening, packed)
                    if claimant is not None:
                        claimants.add(claimant)
    return frozenset(claimants)


class ConflictWatch:
    """Watches for other hosts' claims to `ip` on `device`. Run it while this node holds the address.

    `on_claim(mac)` is called at the first claim of a host and again at most once a second while it goes on.
    `on_claim_ended(mac)` is called once when that host has been asked and no longer answers: the moment to announce
    again, because caches point to it. Both are called on the trio thread and must return within microseconds.

    Raises:
        KernelRefused: no permission for a raw socket, no such device, or not Ethernet.
        ValueError: `ip` is not an IP address.
    """

    def __init__(
        self,
        ip: str,
        device: str,
        on_claim: Callable[[str], None],
        on_claim_ended: Callable[[str], None],
    ) -> None:
        self.ip = ip
        self.device = device
        self._packed = claims.packed_of(ip)
        self._on_claim = on_claim
        self._on_claim_ended = on_claim_ended
        self._own_macs = ethernet.local_macs()
        self._own_macs_at = trio.current_time()
        self._reported: dict[str, float] = {}  # claimant -> when it was last reported

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled; `started` is reported when no claim can be missed any more."""
        opened = _listen(self._packed, self.device)
        with trio.socket.from_stdlib_socket(opened) as listening:
            task_status.started()
            while True:  # until cancelled
                wait_s = ASK_EVERY_S if self._reported else float("inf")
                with trio.move_on_after(wait_s):
                    while True:  # until the claimants are to be asked
                        claimant = await _receive_claim(listening, self._packed)
                        if claimant is not None and self._heard(claimant):
                            break
                if self._reported:
                    await self._ask_claimants()

    def _heard(self, mac: str) -> bool:
        """Report a claim. True: it is the first of this host."""
        if self._is_own(mac) or (mac not in self._reported and len(self._reported) >= CLAIMANTS_MAX):
            return False
        now = trio.current_time()
        last = self._reported.get(mac)
        if last is None or now - last >= CLAIM_REPEAT_S:
            self._reported[mac] = now
            self._on_claim(mac)
        return last is None

    def _is_own(self, mac: str) -> bool:
        now = trio.current_time()
        if mac not in self._own_macs and mac not in self._reported and now - self._own_macs_at >= OWN_MACS_EVERY_S:
            self._own_macs, self._own_macs_at = ethernet.local_macs(), now
        return mac in self._own_macs

    async def _ask_claimants(self) -> None:
        asked = trio.current_time()
        answered = await who_has(self.ip, self.device, wait_ms=ASK_WAIT_MS, count=ASK_COUNT)
        for mac in answered:
            self._heard(mac)
        for mac, reported in list(self._reported.items()):
            if mac not in answered and reported <= asked:
                del self._reported[mac]
                self._on_claim_ended(mac)


def _listen(packed: bytes, device: str) -> socket.socket:
    """Return a socket that hears claims to `packed` only."""
    return ethernet.open_packet_socket(device, claims.protocol_of(packed), claims.claims_of(packed))


async def _receive_claim(listening: trio.socket.SocketType, packed: bytes) -> str | None:
    """Return who the next frame claims `packed` for; None for our own frames as they leave, and for garbage."""
    try:
        frame, source = await listening.recvfrom(FRAME_BYTES_MAX)
    except OSError:  # the link went down: said once, then the socket goes on when it is back
        return None
    if source[2] == socket.PACKET_OUTGOING:
        return None
    return claims.claimant_untrusted(frame, packed)


def _send(opened: socket.socket, frame: bytes) -> None:
    try:
        opened.send(frame)
    except OSError:  # link down or a full queue: the next probe tries again, silence is the answer meanwhile
        return
