"""Announcements: tells the segment which MAC now holds the address. Asks whether it is still ours before every frame.

The frames are built once, with scapy, when the node starts; what is sent later is those bytes on a raw socket. Each
round sends the request *and* the reply form, because some systems heed only one of them, and rounds are repeated:
at least 1.1 s apart, because older Linux ignores a second change within its ARP locktime of 1 s, and slowly for
ever, because switches and routers forget.
"""

import ipaddress
import logging
from collections.abc import Callable

import trio

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)  # it warns of a host without routes when imported

from scapy.layers.l2 import ARP, Ether  # noqa: E402

from gateway.kernel import ethernet  # noqa: E402

REPEATS_S = (1.1, 2.2, 5.0)  # after the first round
REFRESH_S = 60.0
ROUNDS_AT_ONCE = 3  # a burst: single frames get lost in switches that have just changed a port's state

_BROADCAST = "ff:ff:ff:ff:ff:ff"
_NO_MAC = "00:00:00:00:00:00"


class Announcer:
    """Announcements of `ip` with the MAC that `device` has now. Nothing but the constructor takes milliseconds.

    Raises:
        KernelRefused: no permission for a raw socket, no such device, or it is not Ethernet.
    """

    def __init__(self, ip: str, device: str) -> None:
        self.ip = str(ipaddress.ip_address(ip))
        self.device = device
        self._socket = ethernet.open_packet_socket(device)
        self._mac = ethernet.mac_of(self._socket)
        build = arp_frames if ipaddress.ip_address(ip).version == 4 else neighbour_frames
        self._frames = build(self.ip, self._mac)
        self.sent_total = 0
        self.failed_total = 0

    @property
    def mac(self) -> str:
        """The MAC address that is announced, as `02:00:00:00:00:01`."""
        return self._mac

    def close(self) -> None:
        """Close the raw socket."""
        self._socket.close()

    def burst(self, count: int, still_mine: Callable[[], bool] | None = None) -> bool:
        """Send `count` rounds now, in microseconds. False: `still_mine` said no before one of the frames.

        A frame that the device or the fence does not take is counted in `failed_total` and not tried again.
        """
        for _ in range(count):
            for frame in self._frames:
                if still_mine is not None and not still_mine():
                    return False
                try:
                    self._socket.send(frame)
                except OSError:  # link down, full queue, dropped by our own fence, or the device is gone
                    self.failed_total += 1
                else:
                    self.sent_total += 1
        return True

    async def run(
        self,
        still_mine: Callable[[], bool],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Announce now, after 1.1, 2.2 and 5 s, then every 60 s; return when `still_mine` is false.

        `still_mine` must be bound to one term: it is asked only when a frame is due, and must not become true
        again when the address is lost and won back in between. `started` is reported after the first round.
        """
        started = trio.current_time()
        mine = self.burst(ROUNDS_AT_ONCE, still_mine)
        task_status.started()
        for after_s in REPEATS_S:
            if not mine:
                return
            await trio.sleep_until(started + after_s)
            mine = self.burst(1, still_mine)
        while mine:  # until the address is no longer ours
            await trio.sleep(REFRESH_S)
            mine = self.burst(1, still_mine)


def arp_frames(ip: str, mac: str) -> tuple[bytes, ...]:
    """Return the gratuitous ARP request (RFC 5227 §3) and reply for `ip` at `mac`.

    Linux takes a reply for gratuitous, and then overrides an entry that is younger than its locktime, only if the
    target MAC is the sender's; RFC 5944 §4.6 asks for that too.
    """
    ethernet_header = Ether(src=mac, dst=_BROADCAST)
    request = ethernet_header / ARP(op=1, hwsrc=mac, psrc=ip, hwdst=_NO_MAC, pdst=ip)
    reply = ethernet_header / ARP(op=2, hwsrc=mac, psrc=ip, hwdst=mac, pdst=ip)
    return bytes(request), bytes(reply)


def probe_frame(ip: str, mac: str) -> bytes:
    """Return the ARP probe of RFC 5227 §2.1.1: asks for `ip` from 0.0.0.0, so that it changes nobody's cache."""
    probe = Ether(src=mac, dst=_BROADCAST) / ARP(op=1, hwsrc=mac, psrc="0.0.0.0", hwdst=_NO_MAC, pdst=ip)
    return bytes(probe)


def neighbour_frames(ip: str, mac: str) -> tuple[bytes, ...]:
    """Return the unsolicited neighbour advertisement for `ip` at `mac` (RFC 4861 §7.2.6), to all nodes."""
    from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6  # 100 ms that IPv4 need not pay

    advertisement = (
        Ether(src=mac, dst="33:33:00:00:00:01")
        / IPv6(src=ip, dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt=ip, R=0, S=0, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=mac)
    )
    return (bytes(advertisement),)
