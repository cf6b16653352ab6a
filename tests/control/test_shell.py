"""The shell: what a step that fails ends, whoever has posted its event."""

import socket
from functools import partial
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest
import trio

from gateway.console.multiplex import Asker, serve_multiplexed
from gateway.control.commands import CommandRefused, Commands, Level, Request
from gateway.control.shell import Shell
from gateway.core.events import DeadlineReached, Event, ResignationRequested
from gateway.kernel.clock import boot_ms


class Fault(Exception):  # noqa: N818 (what it is)
    """Something that must never be."""


class FailingNode:
    """A core whose steps fail where an operator wants a handover."""

    def step(self, event: Event, now_ms: int) -> list[Any]:
        if isinstance(event, ResignationRequested):
            raise Fault
        return []

    def deadline_ms(self) -> int:
        return boot_ms() + 60_000


def shell_of(node: FailingNode) -> Shell:
    def nothing(*_: Any) -> None:
        return None

    pump = SimpleNamespace(add=nothing, listen=nothing)
    return Shell(
        node=cast(Any, node),
        heartbeats=cast(Any, SimpleNamespace(pump=pump, flush=nothing, take_waiting=nothing)),
        votes=cast(Any, None),
        services={},
        follow=nothing,
        keep_orders=nothing,
    )


async def test_a_step_that_fails_ends_the_node_also_where_a_command_has_posted_its_event() -> None:
    """The command's fault is told to who gave it, and ends nothing; but half a step's actions were never begun."""
    shell, commands = shell_of(FailingNode()), Commands()

    def hand_over(request: Request) -> NoReturn:
        shell.post(ResignationRequested("vip", "by hand"))
        raise AssertionError("the step has failed")

    commands.add("switchover", hand_over)
    ends = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())
    served, asks = ends
    asker = Asker(asks)

    async def run() -> None:
        async with served, asks, trio.open_nursery() as nursery:
            await nursery.start(shell.run_timer)
            nursery.start_soon(partial(serve_multiplexed, served, commands, Level.ADMIN))
            nursery.start_soon(asker.run)
            with pytest.raises(CommandRefused, match="the command failed"):
                await asker.ask({"command": "switchover"}, Level.ADMIN, wait_s=20)
            await trio.sleep_forever()

    with trio.fail_after(20), pytest.raises(ExceptionGroup) as ended:
        await run()
    assert ended.group_contains(Fault)


async def test_a_step_that_goes_well_ends_nothing() -> None:
    shell = shell_of(FailingNode())
    with trio.move_on_after(0.05) as went_on:
        async with trio.open_nursery() as nursery:
            await nursery.start(shell.run_timer)
            shell.post(DeadlineReached())
    assert went_on.cancelled_caught
