"""Merger: accounting histories merged in a process of its own, while the negotiator runs on, and finished without it.

Rule: control waits for nothing but a pipe. The process has a deadline for each answer; it is killed when that passes,
when its asker ends or cancels, and it ends itself when this process is no more.
"""

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import structlog
import trio

from gateway.core.reconcile import Pool
from gateway.matchmaker.histories import draft_path
from gateway.matchmaker.merge_letters import (
    LINE_BYTES_MAX,
    Answer,
    Begin,
    Failed,
    Finish,
    MergeFailed,
    MergeReason,
    Order,
    Outcome,
    Rehearse,
    Story,
)
from gateway.matchmaker.poolvalues import pool_of

__all__ = ["MergeFailed", "MergeReason", "Merger", "Outcome", "Story", "open_merger", "pool_of"]

log = structlog.get_logger()

# 100,000 customers take 4 s on an idle machine, 15 s on a busy one; the longest file that is read, four times as many.
REHEARSE_MS_MAX: Final = 120_000
# The pool has no negotiator meanwhile, but a merge given up here has to be made again: as long as an ordinary
# negotiation cycle of a large pool.
FINISH_MS_MAX: Final = 30_000
END_MS_MAX: Final = 2_000  # from SIGKILL to the end
REPORTS_MS_MAX: Final = 20_000  # after the answer, behind all others' work: the text and JSON of 100,000 customers

_decoder: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


class Merger:
    """One merge. Not to be asked by two tasks at once; after a failure it is of no more use."""

    def __init__(self, process: trio.Process, begin: Begin, rehearse_ms_max: int, finish_ms_max: int) -> None:
        self._process = process
        self._begin: Begin | None = begin
        self._rehearse_ms_max = rehearse_ms_max
        self._finish_ms_max = finish_ms_max
        self._is_finished = False

    @property
    def pid(self) -> int:
        """Of the process that merges."""
        return self._process.pid

    async def rehearse(self) -> Outcome:
        """Merge with ours as it is; only the reports, and a draft beside the result, are written. All runs on.

        Raises:
            MergeFailed
        """
        return await self._ask(Rehearse(), self._rehearse_ms_max)

    async def finish(self) -> Outcome:
        """Merge with ours as it is now, and write the result. Our negotiator is stopped.

        The reports follow; they are there when `open_merger` is left.

        Raises:
            MergeFailed: there is no result, and none will appear.
        """
        outcome = await self._ask(Finish(), self._finish_ms_max)
        self._is_finished = True
        return outcome

    async def see_reports_written(self) -> None:
        """Wait for the reports of a finished merge; they are written after the answer."""
        if self._is_finished:
            with trio.move_on_after(REPORTS_MS_MAX / 1000) as waiting:
                status = await self._process.wait()
            if waiting.cancelled_caught or status:
                log.warning("merge.reports.unwritten", status=self._process.returncode)

    async def _ask(self, order: Order, ms_max: int) -> Outcome:
        try:
            with trio.fail_after(ms_max / 1000):
                if self._begin is not None:
                    await self._send(self._begin)
                    self._begin = None
                await self._send(order)
                answer = await self._receive()
        except trio.TooSlowError:
            self._process.kill()
            text = f"the merge took longer than {ms_max} ms and was given up"
            raise MergeFailed(MergeReason.TOO_SLOW, text) from None
        except BaseException:
            self._process.kill()  # cancelled in its midst: what it answers later is no answer to the next question
            raise
        if isinstance(answer, Failed):
            raise MergeFailed(answer.reason, answer.detail)
        log.info("merge.done", order=type(order).__name__.lower(), **msgspec.structs.asdict(answer.outcome))
        return answer.outcome

    async def _send(self, order: Order) -> None:
        assert self._process.stdin is not None, "opened with a pipe"
        try:
            await self._process.stdin.send_all(msgspec.json.encode(order) + b"\n")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise await self._died() from None

    async def _receive(self) -> Answer:
        assert self._process.stdout is not None, "opened with a pipe"
        line = b""
        while not line.endswith(b"\n"):
            more = await self._process.stdout.receive_some(LINE_BYTES_MAX)
            line += more
            if not more:
                raise await self._died()
            if len(line) > LINE_BYTES_MAX:
                raise MergeFailed(
                    MergeReason.CHILD_DIED, f"the process that merges said more than {LINE_BYTES_MAX} bytes"
                )
        try:
            return _decoder.decode(line)
        except msgspec.DecodeError as error:
            raise MergeFailed(MergeReason.CHILD_DIED, f"the process that merges answered nonsense: {error}") from None

    async def _died(self) -> MergeFailed:
        status = await self._process.wait()
        how = (
            f"was killed by signal {-status}" if status < 0 else f"ended with status {status}: see its traceback above"
        )
        return MergeFailed(MergeReason.CHILD_DIED, f"the process that merges {how}")


@asynccontextmanager
async def open_merger(
    base: Path | None,
    ours: Story,
    theirs: Sequence[Story],
    out: Path,
    pool: Pool,
    *,
    rehearse_ms_max: int = REHEARSE_MS_MAX,
    finish_ms_max: int = FINISH_MS_MAX,
) -> AsyncIterator[Merger]:
    """Start a process for one merge; it is dead when this is left, and nothing half-written is there.

    Leaving waits for the reports of a finished merge.

    Args:
        base: what all sides have in common, or None where they began from nothing.
        ours: the accounting file whose negotiator is to go on with the result.
        theirs: the others; they don't change any more.
        out: where the result will be: a new file in a folder of ours, mode 0600; `out`.report.json and
            `out`.report.txt beside it.
        pool: what must be known of the pool's configuration: `pool_of`.
        rehearse_ms_max: deadline of the first answer.
        finish_ms_max: and of the second.

    Raises:
        MergeFailed: CHILD_DIED, the process can't be started.
    """
    # -P: never import from the directory in which root happened to start us.
    command = [sys.executable, "-P", "-m", "gateway.matchmaker.merging"]
    try:
        process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:  # EAGAIN, ENOMEM
        raise MergeFailed(MergeReason.CHILD_DIED, f"no process can be started: {error.strerror}") from None
    begin = Begin(None if base is None else str(base), ours, list(theirs), str(out), pool)
    merger = Merger(process, begin, rehearse_ms_max, finish_ms_max)
    try:
        yield merger
        await merger.see_reports_written()
    finally:
        process.kill()
        with trio.move_on_after(END_MS_MAX / 1000, shield=True):
            await process.wait()
            await trio.to_thread.run_sync(_clean, out)


def _clean(out: Path) -> None:
    """Remove what a process that was killed has left."""
    draft_path(out).unlink(missing_ok=True)
