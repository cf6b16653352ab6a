"""Neighbours: who else on the segment claims the address. Asks and listens; claims and changes nothing itself."""

import ipaddress
import socket
from collections.abc import Callable

import trio

from gateway.kernel import ethernet, frames
from gateway.kernel.ethernet import ETH_P_ARP, FRAME_BYTES_MAX, ArpPacket, Instruction

CLAIM_REPEAT_S = 1.0  # one host's claim is reported at most so often: a flood must not become our own load
CLAIMANTS_MAX = 16  # more claimants than hosts that can be misconfigured at once are a flood
ASK_EVERY_S = 1.0  # how often a claimant is asked whether it still holds the address
ASK_WAIT_MS = 300
ASK_COUNT = 2

# Classic BPF, linux/filter.h: load a word or half-word at an offset, jump if equal, return.
_LOAD_WORD, _LOAD_HALF, _JUMP_EQUAL, _RETURN = 0x20, 0x28, 0x15, 0x06


async def who_has(ip: str, device: str, *, wait_ms: int, count: int) -> frozenset[str]:
    """Ask the segment `count` times within `wait_ms` who holds IPv4 `ip`; return the MACs that say "I do".

    Uses ARP probes (RFC 5227 §2.1.1), which change nobody's cache. The MACs of this host's own devices are left
    out. Takes the whole `wait_ms`, because more than one host may answer.

    Raises:
        KernelRefused: no permission for a raw socket, no such device, or not Ethernet.
        ValueError: `ip` is not an IPv4 address.
    """
    packed = ipaddress.IPv4Address(ip).packed
    own_macs = ethernet.local_macs()
    claimants: set[str] = set()
    opened = ethernet.open_packet_socket(device, ETH_P_ARP, claims_of(packed))
    probe = frames.probe_frame(ip, ethernet.mac_of(opened))
    with trio.socket.from_stdlib_socket(opened) as listening:
        asked = trio.current_time()
        for turn in range(1, count + 1):
            _send(opened, probe)
            with trio.move_on_at(asked + wait_ms / 1000 * turn / count):
                while True:  # until this turn's share of the time is over
                    claim = await _receive_claim(listening, packed)
                    if claim is not None and claim.sender_mac not in own_macs:
                        claimants.add(claim.sender_mac)
    return frozenset(claimants)


class ConflictWatch:
    """Watches for other hosts' ARP claims to IPv4 `ip` on `device`. Run it while this node holds the address.

    `on_claim(mac)` is called at the first claim of a host and again at most once a second while it goes on.
    `on_claim_ended(mac)` is called once when that host has been asked and no longer answers: the moment to announce
    again, because caches point to it. Both are called on the trio thread and must return within microseconds.

    Raises:
        KernelRefused: no permission for a raw socket, no such device, or not Ethernet.
        ValueError: `ip` is not an IPv4 address.
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
        self._packed = ipaddress.IPv4Address(ip).packed
        self._on_claim = on_claim
        self._on_claim_ended = on_claim_ended
        self._own_macs = ethernet.local_macs()
        self._reported: dict[str, float] = {}  # claimant -> when it was last reported

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled; `started` is reported when no claim can be missed any more."""
        opened = ethernet.open_packet_socket(self.device, ETH_P_ARP, claims_of(self._packed))
        with trio.socket.from_stdlib_socket(opened) as listening:
            task_status.started()
            while True:  # until cancelled
                wait_s = ASK_EVERY_S if self._reported else float("inf")
                with trio.move_on_after(wait_s):
                    while True:  # until the claimants are to be asked
                        claim = await _receive_claim(listening, self._packed)
                        if claim is not None and self._heard(claim.sender_mac):
                            break
                if self._reported:
                    await self._ask_claimants()

    def _heard(self, mac: str) -> bool:
        """Report a claim. True: it is the first of this host."""
        if mac in self._own_macs or (mac not in self._reported and len(self._reported) >= CLAIMANTS_MAX):
            return False
        now = trio.current_time()
        last = self._reported.get(mac)
        if last is None or now - last >= CLAIM_REPEAT_S:
            self._reported[mac] = now
            self._on_claim(mac)
        return last is None

    async def _ask_claimants(self) -> None:
        asked = trio.current_time()
        answered = await who_has(self.ip, self.device, wait_ms=ASK_WAIT_MS, count=ASK_COUNT)
        for mac in answered:
            self._heard(mac)
        for mac, reported in list(self._reported.items()):
            if mac not in answered and reported <= asked:
                del self._reported[mac]
                self._on_claim_ended(mac)


def claims_of(packed: bytes) -> tuple[Instruction, ...]:
    """Return a BPF program that lets only ARP frames pass whose sender address is `packed` (four bytes)."""
    return (
        Instruction(_LOAD_HALF, 0, 0, 12),
        Instruction(_JUMP_EQUAL, 0, 3, ETH_P_ARP),
        Instruction(_LOAD_WORD, 0, 0, 28),
        Instruction(_JUMP_EQUAL, 0, 1, int.from_bytes(packed, "big")),
        Instruction(_RETURN, 0, 0, FRAME_BYTES_MAX),
        Instruction(_RETURN, 0, 0, 0),
    )


async def _receive_claim(listening: trio.socket.SocketType, packed: bytes) -> ArpPacket | None:
    """Return the next frame if it claims `packed`; None for our own frames as they leave, and for garbage."""
    try:
        frame, source = await listening.recvfrom(FRAME_BYTES_MAX)
    except OSError:  # the link went down: said once, then the socket goes on when it is back
        return None
    packet = ethernet.parse_arp_untrusted(frame)
    if source[2] == socket.PACKET_OUTGOING or packet is None or packet.sender_ip != packed:
        return None
    return packet


def _send(opened: socket.socket, frame: bytes) -> None:
    try:
        opened.send(frame)
    except OSError:  # link down or a full queue: the next probe tries again, silence is the answer meanwhile
        return
