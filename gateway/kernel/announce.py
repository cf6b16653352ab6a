"""Announcements: tells the segment which MAC now holds the address. Asks whether it is still ours before every frame.

The frames are made when the node starts (`gateway.kernel.frames`); what is sent later is those bytes on a raw socket.
Each round sends the request *and* the reply form, because some systems heed only one of them, and rounds are
repeated: at least 1.1 s apart, because older Linux ignores a second change within its ARP locktime of 1 s, and slowly
for ever, because switches and routers forget.
"""

import ipaddress
from collections.abc import Callable

import trio

from gateway.kernel import ethernet, frames

REPEATS_S = (1.1, 2.2, 5.0)  # after the first round
REFRESH_S = 60.0
ROUNDS_AT_ONCE = 3  # a burst: single frames get lost in switches that have just changed a port's state


class Announcer:
    """Announcements of `ip` with the MAC that `device` has now. Nothing but the constructor takes milliseconds.

    Raises:
        KernelRefused: no permission for a raw socket, no such device, or it is not Ethernet.
        TemplatesMissing: the frames cannot be made.
    """

    def __init__(self, ip: str, device: str) -> None:
        self.ip = str(ipaddress.ip_address(ip))
        self.device = device
        self._socket = ethernet.open_packet_socket(device)
        self._mac = ethernet.mac_of(self._socket)
        self._frames = frames.announcement_frames(self.ip, self._mac)
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
