"""An `AddressService` on a host of its own, with the smallest core that can be told to serve: it stops when unfit."""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from gateway.config.settings import Address
from gateway.control.address import AddressService
from gateway.core.actions import Cause
from gateway.core.events import Event, ResignationRequested, StandingChanged
from gateway.kernel.clock import boot_ms
from gateway.kernel.link import LinkWatch
from tests.support.netns import DEVICE

IP = "10.77.0.100"
VIP = Address(name="vip", ip=IP, prefix_length=32, device=DEVICE, holders=("gw1", "gw2"))
VIP6 = Address(name="vip6", ip="fd77::100", prefix_length=128, device=DEVICE, holders=("gw1", "gw2"))


class Core:
    """Takes events in order, as the shell does; stops serving when unfit (but not while paused) or told to resign."""

    def __init__(self) -> None:
        self.service: AddressService
        self.events: list[Event] = []
        self.fit = False
        self.reason = ""
        self.term = 0
        self.serving = False
        self.paused = False
        self._queue: deque[Event] = deque()
        self._stepping = False

    def post(self, event: Event) -> None:
        self._queue.append(event)
        if not self._stepping:
            self.step()

    def step(self) -> None:
        self._stepping = True
        while self._queue:
            event = self._queue.popleft()
            self.events.append(event)
            if isinstance(event, StandingChanged):
                self.fit, self.reason = event.standing.fit, event.reason
            if self.serving and (isinstance(event, ResignationRequested) or not (self.fit or self.paused)):
                self.serving = False
                self.service.stop(self.term, Cause.REQUESTED, at_once=True)
        self._stepping = False

    def win(self, lease_ms: int = 30_000) -> None:
        """Win the next term, and serve in it."""
        self.term += 1
        self.serving = self._stepping = True
        self.service.start(self.term, boot_ms() + lease_ms)
        self.step()

    def lose(self) -> None:
        self.serving = False
        self.service.stop(self.term, Cause.REQUESTED, at_once=True)

    async def wait(self, until: Callable[[], bool], within_s: float = 5.0) -> bool:
        """Return whether `until` became true in time."""
        with trio.move_on_after(within_s):
            while not until():  # noqa: ASYNC110 (the kernel is asked as well)
                await trio.sleep(0.005)
            return True
        return False


Body = Callable[[AddressService, Core], Awaitable[Any]]


def with_service(body: Body, address: Address = VIP, *, adopt: bool = False) -> Any:
    """Run `body` beside a running service that is fit; call it on a host."""

    async def main() -> Any:
        core = Core()
        service = core.service = AddressService("tests", address, core.post)
        await service.prepare(adopt=adopt)
        async with trio.open_nursery() as nursery:
            await nursery.start(LinkWatch().run, service.link_changed)
            await nursery.start(service.run)
            service.relay_changed(ready=True)
            result = await body(service, core)
            nursery.cancel_scope.cancel()
        return result

    return trio.run(main)
