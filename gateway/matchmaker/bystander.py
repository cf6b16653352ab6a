"""A bystander: this host's negotiator where the configuration does not say `negotiator on-elected`: it is left alone.

Rule: nothing is started, stopped or killed, and HTCondor's own configuration may list a negotiator or not. What else
follows the election (the collector's forwarding to the standbys) is ordered as ever.
"""

import structlog
import trio

from gateway.matchmaker import nodefile
from gateway.matchmaker.master import Held, Master
from gateway.matchmaker.negotiator import Negotiator

log = structlog.get_logger()


class Bystander(Negotiator):
    """Has the shape of a `Negotiator`, and never one of its own."""

    leaves_alone = True

    @property
    def held(self) -> tuple[Master | None, Held | None]:
        """Nobody must end anything."""
        return None, None

    @property
    def may_appear(self) -> bool:
        """None has been ordered."""
        return False

    @property
    def standby_file(self) -> tuple[str, str]:
        """Path and text of the role's file of a manager that is not elected."""
        return self._file, nodefile.render_left_alone(elected=False, view_hosts=())

    async def reset_at_start(self) -> None:
        """Bring the node's files to standby. Raises as `Negotiator`."""
        _say()
        await self._write(negotiator=False, view_hosts=())
        await self._write_standing()
        await self._check_configuration()
        await self._order_no_negotiator()

    async def start(self, view_hosts: tuple[str, ...]) -> None:
        """Let the collector forward to `view_hosts`. Raises as `Negotiator`."""
        if self._written == self._render(negotiator=True, view_hosts=view_hosts):
            return
        master = await self._hold_master()
        await self._write(negotiator=True, view_hosts=view_hosts)
        master.reconfigure()

    async def resume_standby(self) -> None:
        """Go on where a process before this one was not elected. Raises as `Negotiator`."""
        _say()
        await super().resume_standby()

    async def resume(self, view_hosts: tuple[str, ...], *, start: bool) -> None:
        """Go on where a process before this one was elected. Raises as `Negotiator`."""
        await self.resume_standby()
        if start:
            await self.start(view_hosts)

    async def stop(self, grace_ms: int) -> None:
        """Let the collector forward to nobody. Raises as `Negotiator`."""
        await self._write(negotiator=False, view_hosts=())
        await self._order_no_negotiator()

    def kill(self) -> None:
        """Nothing is killed."""

    async def wait_exit(self) -> None:
        """Return never: whatever ends here has not been this node's."""
        await trio.sleep_forever()

    def _render(self, *, negotiator: bool, view_hosts: tuple[str, ...]) -> str:
        return nodefile.render_left_alone(elected=negotiator, view_hosts=view_hosts)


def _say() -> None:
    log.warning("negotiator.left-alone", reason="the file does not say 'negotiator on-elected'")
