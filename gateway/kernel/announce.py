"""Announcements: tells the segment which MAC now holds the address. Asks whether it is still ours before every frame.

The frames are made when the node starts (`gateway.kernel.frames`); what is sent later is those bytes on a raw socket.
Each round sends the request *and* the reply form, because some systems heed only one of them, and rounds are
repeated: at least 1.1 s apart, because older Linux ignores a second change within its ARP locktime of 1 s, and slowly
for ever, because switches and routers forget.
"""

import ipaddress
from collections.abc import Callable

import trio

from gateway.kernel import ethernet, frames, netlink

REPEATS_S = (1.1, 2.2, 5.0)  # after the first round
REFRESH_S = 60.0
AGAIN_S_MIN = 1.0  # between two times that everything begins anew: RFC 4861 §7.2.6 asks for RetransTimer, 1 s
ROUNDS_AT_ONCE = 3  # a burst: single frames get lost in switches that have just changed a port's state


class Announcer:
    """Announcements of `ip` with the MAC that `device` has. Nothing but the first constructor takes milliseconds.

    Raises:
        KernelRefused: no permission for a raw socket, no such device, or it is not Ethernet.
        TemplatesMissing: the frames cannot be made.
    """

    def __init__(self, ip: str, device: str) -> None:
        self.ip = str(ipaddress.ip_address(ip))
        self.device = device
        self._again = trio.Event()
        self.sent_total = 0
        self.failed_total = 0
        self._open()

    def _open(self) -> None:
        self._index = netlink.device_index(self.device)
        self._socket = ethernet.open_packet_socket(self.device)
        self._mac = ethernet.mac_of(self._socket)
        self._frames = frames.announcement_frames(self.ip, self._mac)

    def follow(self) -> bool:
        """Take the MAC and the index that the device has now; it may have been deleted and made anew. Microseconds.

        Returns:
            Whether something had changed: then what the neighbours have learned is stale.

        Raises:
            KernelRefused: there is no such device now, or it is not Ethernet any more. Nothing was changed.
        """
        same_device = netlink.device_index(self.device) == self._index
        if same_device and ethernet.mac_of(self._socket) == self._mac:
            return False
        before = self._socket
        self._open()
        ethernet.close_soon(before)
        return True

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

    def again(self) -> None:
        """Let `run` begin its rounds anew. Many calls within `AGAIN_S_MIN` count as one."""
        self._again.set()

    async def run(
        self,
        still_mine: Callable[[], bool],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Announce now, after 1.1, 2.2 and 5 s, then every 60 s; return when `still_mine` is false.

        After `again` it all begins anew. `still_mine` must be bound to one term: it is asked only when a frame is
        due, and must not become true again when the address is lost and won back in between. `started` is reported
        after the first round.
        """
        self._again = trio.Event()
        begun = trio.current_time()
        mine = self.burst(ROUNDS_AT_ONCE, still_mine)
        task_status.started()
        turns = iter(REPEATS_S)
        due = begun + next(turns)
        while mine:  # until the address is no longer ours
            with trio.move_on_at(due):
                await self._again.wait()
            if self._again.is_set():
                await trio.sleep_until(begun + AGAIN_S_MIN)
                self._again = trio.Event()
                begun, turns = trio.current_time(), iter(REPEATS_S)
                mine = self.burst(ROUNDS_AT_ONCE, still_mine)
            else:
                mine = self.burst(1, still_mine)
            due = next((begun + after_s for after_s in turns), trio.current_time() + REFRESH_S)
