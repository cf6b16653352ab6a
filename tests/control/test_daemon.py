"""The composition root: what a task of the node ends with is known before anything is cleaned up."""

import pytest
import trio
from structlog.testing import capture_logs

from gateway import daemon
from gateway.kernel.netlink import KernelRefused


async def fails_when_told(told: trio.Event, error: Exception, *, task_status: trio.TaskStatus[None]) -> None:
    task_status.started()
    await told.wait()
    raise error


async def end_of(error: Exception) -> list[str]:
    """Run a task that ends with `error` beside another one; return what was logged before that is cleaned up."""
    told, logged_before = trio.Event(), []

    async def slow_to_end(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            logged_before.extend(entry["event"] for entry in logs)

    async def node() -> None:
        async with trio.open_nursery() as nursery:
            await daemon._start(nursery, "slow", slow_to_end)
            await daemon._start(nursery, "failing", fails_when_told, told, error)
            told.set()

    with capture_logs() as logs, pytest.raises(BaseExceptionGroup):
        await node()
    return logged_before


async def test_what_ends_a_task_is_logged_before_the_others_are_cleaned_up() -> None:
    assert await end_of(RuntimeError("a bug")) == ["node.task-failed"]


async def test_an_answer_to_the_operator_is_said_once_and_not_as_a_failure() -> None:
    assert await end_of(KernelRefused("add an address", 1, "be root")) == []
