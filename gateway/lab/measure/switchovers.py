"""`lab measure switchover`: elections are handed over under load; the gap that is printed beside the gap that is seen.

What is seen of the matchmaker is in the negotiators' own logs; of the address, in what a client's probe was answered.
All hosts of a lab have one clock. Exit status: 0 every handover was done and measured.
"""

import argparse
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec
import trio

from gateway.lab.errors import LabError
from gateway.lab.measure import observe, probe
from gateway.lab.measure.load import SUBMIT_HOST, USERS_SUBMITTING, Load
from gateway.lab.measure.logs import stamp
from gateway.lab.pool import Lab
from gateway.lab.rootfs import LIBRARY
from gateway.lab.topology import CONDOR_PORT, Kind, Topology

OK, REFUSED = 0, 1
WORDS: Final = ("matchmaker", "address")
HELD: Final = 20
SETTLE_S: Final = 4.0  # before a handover: probes and questions are answered
AFTER_S: Final = 4.0  # the first cycle, and what broke, is seen by then
HEALTHY_S_MAX: Final = 90.0
COMMAND_S_MAX: Final = 120.0
STOP_FILE: Final = "/tmp/asker-stop"
_PYTHON = ["/usr/bin/python3", "-S", "-E"]
_ASKER = ["/usr/bin/env", f"PYTHONPATH={LIBRARY}", "/usr/bin/python3", "-S", f"{LIBRARY}/gateway/lab/measure/asker.py"]
_STARTED = "Started Negotiation Cycle"

Progress = Callable[[str], None]
Opener = Callable[[Topology], "AbstractAsyncContextManager[Lab]"]


class SwitchResult(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """One handover. Gaps in ms; `seen_ms` None: it was not seen. Counts are of connections, and of jobs."""

    what: str
    forward: str
    repeat: int
    from_: str
    to: str
    printed_ms: int | None
    seen_ms: float | None
    waited_ms: int
    phases: dict[str, int]
    asked: dict[str, int]
    held: dict[str, int]
    slowest_ms: int
    jobs_done: int
    jobs_lost: int | None = None

    @property
    def apart_ms(self) -> float | None:
        """How far the printed gap is from the seen one."""
        return None if None in (self.printed_ms, self.seen_ms) else self.printed_ms - self.seen_ms  # type: ignore[operator]


async def measure(
    chosen: argparse.Namespace, wanted: Topology, open_lab: Opener, say: Progress, json_file: TextIO | None
) -> int:
    """Hand over as often as was asked for; print the table, also of a series broken off.

    Raises:
        LabError: a handover was refused, or a lab could not be had.
    """
    words, repeats = WORDS if chosen.what is None else (chosen.what,), chosen.repeat or 1
    results: list[SwitchResult] = []
    try:
        async with open_lab(wanted) as lab, trio.open_nursery() as nursery:
            load = Load(lab, f"{os.getpid()}-switch", users=USERS_SUBMITTING[:1])
            nursery.start_soon(load.feed)
            switches = Switchovers(lab, load, say)
            await switches.wait_for_jobs()
            for word in words:
                for repeat in range(1, repeats + 1):
                    found = await switches.measure(word, repeat)
                    results.append(found)
                    say(_line(found))
                    if json_file is not None:
                        json_file.write(f"{msgspec.json.encode(found).decode()}\n")
                        json_file.flush()
            nursery.cancel_scope.cancel()
    finally:
        if results:
            print(f"\n{table(results)}\n")
    return OK if len(results) == len(words) * repeats else REFUSED


class Switchovers:
    """Handovers on a lab that is up and has a load, one at a time."""

    def __init__(self, lab: Lab, load: Load, say: Progress) -> None:
        self._lab = lab
        self._load = load
        self._say = say
        self._logs = observe.Logs(lab)

    async def wait_for_jobs(self) -> None:
        """Wait for the first job to complete.

        Raises:
            LabError: none did.
        """
        with trio.move_on_after(HEALTHY_S_MAX):
            while not self._load.look().completed_at:  # noqa: ASYNC110 (files have no events)
                await trio.sleep(0.5)
            return
        raise LabError(f"no job has completed: {'; '.join(self._load.failures[-1:]) or 'nobody knows why'}")

    async def measure(self, word: str, repeat: int) -> SwitchResult:
        """Hand over once.

        Raises:
            LabError: the pool did not become healthy, or the command refused.
        """
        await self._healthy()
        self._logs.mark()
        jobs = len(self._load.look().completed_at)
        async with self._watched() as (probed, asked):
            await trio.sleep(SETTLE_S)
            since = time.time()
            answer = await self._command(word)
            await trio.sleep(AFTER_S)
            until = time.time()
        if word == "matchmaker":
            seen_ms = negotiators_gap_ms(self._logs.condor(Kind.MANAGER, "NegotiatorLog"), answer["from"], answer["to"])
        else:
            seen_ms = probe.blackout_ms(probed.read_text(), since, until)
        told = _said(asked)
        lost = await self._load.lost()
        return SwitchResult(
            what=word,
            forward=str(self._lab.topology.forward),
            repeat=repeat,
            from_=answer["from"],
            to=answer["to"],
            printed_ms=answer["gap_ms"],
            seen_ms=None if seen_ms is None else round(seen_ms, 1),
            waited_ms=answer["waited_ms"],
            phases=answer["phases"],
            asked=told["asked"],
            held=told["held"],
            slowest_ms=told["slowest_ms"],
            jobs_done=len(self._load.look().completed_at) - jobs,
            jobs_lost=None if lost is None else len(lost),
        )

    async def _healthy(self) -> None:
        """Wait until somebody leads, and everybody else could follow at once."""
        seen = await observe.view(self._lab)
        with trio.move_on_after(HEALTHY_S_MAX):
            while not (seen.leader and seen.holder) or seen.managers_unfit or seen.gateways_unfit:
                await trio.sleep(0.5)
                seen = await observe.view(self._lab)
            return
        raise LabError(f"the pool did not become healthy within {HEALTHY_S_MAX:g} s: {seen}")

    async def _command(self, word: str) -> dict[str, Any]:
        asking = self._lab.topology.of_kind(Kind.GATEWAY)[0].name
        argv = ["condor-gateway", "switchover", word, "--json"]
        done = await self._lab.exec(asking, argv, timeout_s=COMMAND_S_MAX)
        if done.returncode != 0:
            raise LabError(f"switchover {word} on {asking}: {(done.stderr or done.stdout).strip()}")
        return msgspec.json.decode(done.stdout, type=dict[str, Any])

    @asynccontextmanager
    async def _watched(self) -> AsyncIterator[tuple[Path, Path]]:
        """Probe the address and ask the pool, from the submit host; yields the files of both, whole afterwards."""
        folder, address = self._lab.folder, self._lab.topology.virtual_address
        probed, asked = folder / "switch-probe.txt", folder / "switch-asked.txt"
        probing = await self._lab.spawn(
            SUBMIT_HOST,
            [*_PYTHON, f"{LIBRARY}/gateway/lab/measure/probe.py", address, str(CONDOR_PORT), "eth0", "-"],
            stdout=probed,
        )
        asking = await self._lab.spawn(
            SUBMIT_HOST, [*_ASKER, address, str(CONDOR_PORT), str(HELD), STOP_FILE], stdout=asked
        )
        try:
            with trio.move_on_after(SETTLE_S):
                while "asking" not in asked.read_text():  # noqa: ASYNC110 (files have no events)
                    await trio.sleep(0.05)
            yield probed, asked
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 30):
                await self._lab.exec(SUBMIT_HOST, ["touch", STOP_FILE])
                await asking.wait()
                await probing.stop()
            await asking.stop()


def negotiators_gap_ms(logs: Mapping[str, str], old: str, new: str) -> float | None:
    """Return the time from the last line of the old negotiator to the first cycle of the new one; None: not seen.

    `logs`: what the managers' NegotiatorLogs have gained, by host. Their times have milliseconds.
    """
    ended = [at for line in logs.get(old, "").splitlines() if (at := stamp(line)) is not None]
    began = [at for line in logs.get(new, "").splitlines() if _STARTED in line and (at := stamp(line)) is not None]
    return (began[0] - ended[-1]) * 1000 if ended and began else None


def _said(path: Path) -> dict[str, Any]:
    text = path.read_text()
    for line in text.splitlines():
        if line.startswith("{"):
            return msgspec.json.decode(line, type=dict[str, Any])
    raise LabError(f"the client that asked the pool failed: {text.strip() or 'it said nothing'}")


def _broken(counts: Mapping[str, int]) -> str:
    broken = {word: count for word, count in counts.items() if word != "answered"}
    return f"{counts.get('answered', 0)} of {sum(counts.values())}" + "".join(
        f", {count} {word}" for word, count in broken.items()
    )


def _line(result: SwitchResult) -> str:
    return (
        f"{result.what} {result.from_} -> {result.to}: printed {result.printed_ms} ms, seen {result.seen_ms} ms; "
        f"questions answered {_broken(result.asked)}; held connections {_broken(result.held)}; "
        f"slowest {result.slowest_ms} ms; {result.jobs_done} jobs done, {result.jobs_lost} lost"
    )


_COLUMNS = (
    "what",
    "way",
    "from -> to",
    "printed ms",
    "seen ms",
    "apart",
    "refused",
    "asked",
    "held",
    "slowest ms",
    "lost",
)


def table(results: Sequence[SwitchResult]) -> str:
    """Return the results as a Markdown table, a line a handover."""
    lines = [f"| {' | '.join(_COLUMNS)} |", f"|---|---|---|{'---:|' * (len(_COLUMNS) - 3)}"]
    for one in results:
        apart = "-" if one.apart_ms is None else f"{one.apart_ms:+.0f}"
        cells = [one.what, one.forward, f"{one.from_} -> {one.to}", str(one.printed_ms), str(one.seen_ms), apart]
        cells += [str(one.asked.get("refused", 0)), _broken(one.asked), _broken(one.held), str(one.slowest_ms)]
        lines.append(f"| {' | '.join([*cells, str(one.jobs_lost)])} |")
    return "\n".join(lines)
