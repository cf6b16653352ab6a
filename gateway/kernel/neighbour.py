"""Neighbours: who else on the segment claims the address. Asks and listens; claims and changes nothing itself.

A packet socket is never closed on the caller's thread: the kernel waits there for all its CPUs, 8 to 40 ms measured.
"""

import contextlib
import errno
import socket
from collections.abc import Callable, Iterator

import trio

from gateway.kernel import claims, ethernet, frames
from gateway.kernel.ethernet import FRAME_BYTES_MAX
from gateway.kernel.netlink import KernelRefused

CLAIM_REPEAT_S = 1.0  # one host's claim is reported at most so often: a flood must not become our own load
CLAIMANTS_MAX = 16  # more claimants than hosts that can be misconfigured at once are a flood
ASK_EVERY_S = 1.0  # how often a claimant is asked whether it still holds the address
ASK_WAIT_MS = 300
ASK_COUNT = 2
OWN_MACS_EVERY_S = 1.0  # a device of this host may get another MAC; asking the kernel takes 0.1 ms
FRAMES_AT_ONCE = 64  # read in 0.3 ms; more at once are a flood, which must leave time to the other elections


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
    with _listening(packed, device) as opened:
        await _ask(opened, ip, packed, claimants.add, wait_ms=wait_ms, count=count)
    return frozenset(claimants)


class ConflictWatch:
    """Watches for other hosts' claims to `ip` on `device`. Run it while this node holds the address.

    `on_claim(mac)` is called at the first claim of a host and again at most once a second while it goes on.
    `on_claim_ended(mac)` is called once when that host has been asked and no longer answers: the moment to announce
    again, because caches point to it. Both are called on the trio thread and must return within microseconds.

    It has one socket for listening and asking, from the start of `run` to its end.

    Raises:
        KernelRefused: no permission for a raw socket, no such device, not Ethernet, or the device is gone.
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
        self._own_macs: frozenset[str] = frozenset()
        self._read_own_macs()
        self._reported: dict[str, float] = {}  # claimant -> when it was last reported

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled; `started` is reported when no claim can be missed any more."""
        with _listening(self._packed, self.device) as opened:
            task_status.started()
            while True:  # until cancelled
                wait_s = ASK_EVERY_S if self._reported else float("inf")
                with trio.move_on_after(wait_s):
                    while True:  # until the claimants are to be asked
                        await trio.lowlevel.wait_readable(opened)
                        if self._hear_queued(opened):
                            break
                if self._reported:
                    await self._ask_claimants(opened)

    def _hear_queued(self, opened: socket.socket) -> bool:
        """Report the claims that are here already. True: one is the first of its host."""
        return True in [self._heard(claimant) for claimant in _queued_claims(opened, self._packed)]

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
            self._read_own_macs()
        return mac in self._own_macs

    def _read_own_macs(self) -> None:
        self._own_macs_at = trio.current_time()
        try:
            self._own_macs = ethernet.local_macs()
        except KernelRefused as error:
            if error.errno != errno.EINTR:  # links come and go without pause: what was read last must do meanwhile
                raise

    async def _ask_claimants(self, opened: socket.socket) -> None:
        answered: set[str] = set()

        def hear(mac: str) -> None:
            self._heard(mac)
            answered.add(mac)

        self._hear_queued(opened)  # said before the question: no answer to it
        self._read_own_macs()
        await _ask(opened, self.ip, self._packed, hear, wait_ms=ASK_WAIT_MS, count=ASK_COUNT)
        for mac in list(self._reported):
            if mac not in answered or mac in self._own_macs:
                del self._reported[mac]
                self._on_claim_ended(mac)


@contextlib.contextmanager
def _listening(packed: bytes, device: str) -> Iterator[socket.socket]:
    """Give a non-blocking socket that hears claims to `packed` only."""
    opened = ethernet.open_packet_socket(device, claims.protocol_of(packed), claims.claims_of(packed))
    try:
        yield opened
    finally:
        ethernet.close_soon(opened)


async def _ask(
    opened: socket.socket, ip: str, packed: bytes, on_claim: Callable[[str], None], *, wait_ms: int, count: int
) -> None:
    """Ask `count` times within `wait_ms` who holds `ip`; call `on_claim` for each claim that comes meanwhile."""
    mac = ethernet.mac_of(opened)
    if not mac:
        raise KernelRefused(f"ask who holds {ip}", errno.ENODEV, "the device went away; it is looked for again")
    probe = frames.question_frame(ip, mac)
    asked = trio.current_time()
    for turn in range(1, count + 1):
        _send(opened, probe)
        with trio.move_on_at(asked + wait_ms / 1000 * turn / count):
            while True:  # until this turn's share of the time is over
                await trio.lowlevel.wait_readable(opened)
                for claimant in _queued_claims(opened, packed):
                    on_claim(claimant)


def _queued_claims(opened: socket.socket, packed: bytes) -> list[str]:
    """Return who the frames that are here claim `packed` for; our own frames as they leave and garbage are left out."""
    claimants = []
    for _ in range(FRAMES_AT_ONCE):
        try:
            frame, source = opened.recvfrom(FRAME_BYTES_MAX)
        except BlockingIOError:
            break
        except OSError:  # the link went down: said once, then the socket goes on when it is back
            continue
        if source[2] == socket.PACKET_OUTGOING:
            continue
        claimant = claims.claimant_untrusted(frame, packed)
        if claimant is not None:
            claimants.append(claimant)
    return claimants


def _send(opened: socket.socket, frame: bytes) -> None:
    try:
        opened.send(frame)
    except OSError:  # link down or a full queue: the next probe tries again, silence is the answer meanwhile
        return
