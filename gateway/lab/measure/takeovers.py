"""`lab measure false-takeovers`: how often the holder changes when nothing is broken, so that every change is false.

All processors are busy and heartbeats get lost. Nothing probes: a probe would take a processor of its own.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import TextIO

import msgspec
import trio

from gateway.lab import keepalived
from gateway.lab.errors import LabError
from gateway.lab.measure.address_command import OK, REFUSED, duration_ms
from gateway.lab.measure.address_scenarios import AddressRun
from gateway.lab.measure.contenders import KEEPALIVED, OURS, Contender, contender_of
from gateway.lab.segment import CLIENT, Segment

Progress = Callable[[str], None]

NAME = "false-takeovers"
HEARTBEAT_MS, LEASE_MS = 50, 300
MINUTES = 30.0
LOSSES = (5,)
LADDER = (5, 10, 15, 20, 25, 30, 40, 50, 60, 70)
LOOK_S = 0.5
SAY_S = 60.0
_HOG = "while True: pass"


class Takeovers(msgspec.Struct, frozen=True, kw_only=True):
    """One step: so much loss for so long, and what came of it. `first_s`: when the first change was seen."""

    scenario: str = NAME
    system: str
    heartbeat_ms: int
    lease_ms: int
    loss_percent: int
    hogs: int
    minutes: float
    healthy_before: bool
    changes: int | None = None
    first_s: float | None = None
    refused: tuple[str, ...] | None = None


@contextlib.asynccontextmanager
async def busy(segment: Segment, count: int) -> AsyncIterator[None]:
    """Keep `count` processors busy with ordinary priority while the block runs."""
    hogs = [
        segment.start(CLIENT, [sys.executable, "-S", "-E", "-c", _HOG], segment.folder / "hogs.log")
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()


class Ladder:
    """Losses one after the other on one contender; ends with the first at which the holder changed."""

    def __init__(self, contender: Contender, say: Progress, minutes: float, *, to_first: bool) -> None:
        self.contender = contender
        self.segment = contender.segment
        self.say = say
        self.minutes = minutes
        self.to_first = to_first
        self.hogs = len(os.sched_getaffinity(0))

    async def step(self, run: AddressRun, percent: int) -> Takeovers:
        """Watch for `minutes` at this loss, or until the first change."""
        holder, reasons = await run.healthy()
        if holder is None:
            return self._result(percent, 0.0, refused=reasons)
        async with busy(self.segment, self.hogs):
            before = self.contender.changes()
            await self.segment.lose(percent)
            started = spoken = time.monotonic()
            first_s: float | None = None
            try:
                while time.monotonic() - started < self.minutes * 60:
                    await trio.sleep(LOOK_S)
                    now = time.monotonic()
                    changes = self.contender.changes() - before
                    if changes and first_s is None:
                        first_s = now - started
                        self.say(f"{percent} % loss: the holder changed after {first_s:.0f} s")
                        if self.to_first:
                            break
                    if now - spoken >= SAY_S:
                        spoken = now
                        self.say(f"{percent} % loss, {(now - started) / 60:.0f} minutes: {changes} changes")
                return self._result(
                    percent, (time.monotonic() - started) / 60, changes=self.contender.changes() - before, first=first_s
                )
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
                    await self.segment.lose(0)

    def _result(
        self,
        percent: int,
        minutes: float,
        *,
        changes: int | None = None,
        first: float | None = None,
        refused: tuple[str, ...] | None = None,
    ) -> Takeovers:
        return Takeovers(
            system=self.contender.name,
            heartbeat_ms=self.contender.heartbeat_ms,
            lease_ms=self.contender.lease_ms,
            loss_percent=percent,
            hogs=self.hogs,
            minutes=minutes,
            healthy_before=refused is None,
            changes=changes,
            first_s=first,
            refused=refused,
        )


def losses(text: str | None, *, ladder: bool) -> tuple[int, ...]:
    """Return the losses to try, in percent.

    Raises:
        LabError: not numbers from 0 to 100.
    """
    if text is None:
        return LADDER if ladder else LOSSES
    try:
        found = tuple(int(one.removesuffix("%")) for one in text.split(","))
    except ValueError:
        raise LabError(f"{text!r} is no loss: write percentages, as in --loss 5,10,20") from None
    if not all(0 <= one <= 100 for one in found):
        raise LabError(f"{text!r} is no loss: it goes from 0 to 100 percent")
    return found


async def measure(chosen: argparse.Namespace, say: Progress, json_file: TextIO | None) -> int:
    """Run every loss until the first change; print a line for each. 0: no loss was refused.

    Raises:
        LabError: a lab could not be had, or the arguments make no sense.
    """
    steps = losses(chosen.loss, ladder=chosen.ladder)
    minutes = MINUTES if chosen.minutes is None else chosen.minutes
    heartbeat_ms = duration_ms(chosen.heartbeat) if chosen.heartbeat else HEARTBEAT_MS
    lease_ms = duration_ms(chosen.lease) if chosen.lease else LEASE_MS
    program = None
    systems = (OURS, KEEPALIVED) if chosen.compare == KEEPALIVED else (OURS,)
    if KEEPALIVED in systems:
        program = await trio.to_thread.run_sync(keepalived.fetch, abandon_on_cancel=True)
    segment = Segment(chosen.name)
    results: list[Takeovers] = []
    try:
        for system in systems:
            contender = contender_of(system, segment, heartbeat_ms, lease_ms, program)
            run = AddressRun(contender, say)
            async with segment.standing(), run.up():
                for percent in steps:
                    say(f"{system}: {percent} % of the heartbeats lost for {minutes:g} minutes, all processors busy")
                    found = await Ladder(contender, say, minutes, to_first=chosen.ladder).step(run, percent)
                    results.append(found)
                    if json_file is not None:
                        json_file.write(msgspec.json.encode(found).decode() + "\n")
                        json_file.flush()
                    if found.changes or not found.healthy_before:
                        break
    finally:
        if results:
            print(f"\n{table(results)}\n")
    return OK if results and all(one.healthy_before for one in results) else REFUSED


def table(results: list[Takeovers]) -> str:
    """Return a line for each step."""
    lines = [
        f"{'system':<12}{'heartbeat':>10}{'lease':>9}{'loss':>7}{'busy':>6}{'minutes':>9}{'changes':>9}{'first s':>9}"
    ]
    lines.append("-" * len(lines[0]))
    for one in results:
        line = f"{one.system:<12}{f'{one.heartbeat_ms} ms':>10}{f'{one.lease_ms} ms':>9}{f'{one.loss_percent} %':>7}"
        if one.refused is not None:
            lines.append(f"{line}  not measured: {'; '.join(one.refused)}")
            continue
        first = "-" if one.first_s is None else f"{one.first_s:.0f}"
        lines.append(f"{line}{one.hogs:>6}{one.minutes:>9.1f}{one.changes:>9}{first:>9}")
    return "\n".join(lines)
