"""The data plane side by side: a direct connection, HAProxy, nginx stream, socat, and our proxy, nat and direct.

Rule: in every round everybody carries every load, in an order drawn anew; what counts is the ratio within a round, for
the machine is never the same twice. Nothing is judged, but wrong bytes end it with status 1.

As root; all of it in network namespaces of its own. `--only proxy,haproxy --loads rate4k --rounds 3` for a short look.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.bench import results
from tests.bench.plane import contenders, idle, loads, programs, report
from tests.bench.plane.contenders import PORT, SERVERS, Contender, ContenderError
from tests.bench.plane.loadgen import ROOT, NoCompilerError, binary
from tests.bench.plane.segment import Segment, SegmentError, end_by_signals

MARKDOWN = ROOT / "build/bench/plane.md"
IDLE_COUNTS = [1_000, 10_000]
BESIDES_IDLE = 100  # nobody at the limit of their connections: new ones are tried beside the idle ones
LOAD_S_BEYOND = 45  # a load that takes this much longer is stuck
SWITCH_S = 4.0  # silent clients behind nat are told one after another


class Bench:
    """One run."""

    def __init__(self, segment: Segment, chosen: argparse.Namespace, kinds: list[type[Contender]]) -> None:
        self.segment = segment
        self.chosen = chosen
        self.everybody = [kind(segment, segment.folder) for kind in kinds]
        self.kinds = kinds
        self.servers: dict[int, subprocess.Popen[str]] = {}
        self.complaints: list[str] = []
        self.corrupt = False
        self.rounds: dict[str, dict[str, dict[str, list[float | None]]]] = {}
        self.memory: dict[str, dict[int, dict[str, Any]]] = {}
        self.switches: dict[str, dict[str, list[dict[str, Any]]]] = {}

    def complain(self, text: str) -> None:
        self.corrupt |= "corrupt" in text
        self.complaints.append(text)
        print(f"  {text}", file=sys.stderr, flush=True)

    def start(self) -> None:
        """Start the servers and everybody; who does not start is left out, and said."""
        self.start_servers()
        for contender in list(self.everybody):
            try:
                contender.start()
            except (ContenderError, SegmentError) as error:
                self.leave_out(contender, error)

    def start_servers(self) -> None:
        """Start the servers, anew where they run: what a switch behind nat has orphaned there goes with them."""
        for number, host in SERVERS.items():
            if number in self.servers:
                self.servers[number].kill()
                self.servers[number].wait()
            argv = [str(binary()), "serve", "0.0.0.0", str(PORT), str(number)]
            server = self.servers[number] = self.segment.spawn(host, argv)
            assert server.stdout is not None
            server.stdout.readline()

    def stop(self) -> None:
        for contender in self.everybody:
            contender.stop()

    def run_load(self, load: loads.Load, contender: Contender) -> dict[str, Any] | None:
        """Return what the load generator said; None where it failed."""
        argv = [str(binary()), *load.argv(contender.address, PORT, self.chosen.seconds, contender.server(1))]
        argv = self.segment.argv("client", argv)
        limit_s = self.chosen.seconds + LOAD_S_BEYOND
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=limit_s, check=False)
        except subprocess.TimeoutExpired:
            self.complain(f"{contender.name}, {load.name}: not done within {limit_s:.0f} s")
            return None
        if done.returncode:
            self.complain(f"{contender.name}, {load.name}: {done.stderr.strip()}")
            return None
        answer = json.loads(done.stdout)
        if wrong := load.complaint(answer):
            self.complain(f"{contender.name}, {load.name}: {wrong}")
        return answer

    def run_rounds(self, mode: str, wanted: list[loads.Load]) -> None:
        """Carry all loads in all rounds, shuffled."""
        kept = self.rounds.setdefault(mode, {})
        for turn in range(self.chosen.rounds):
            begun = time.monotonic()
            for load in random.sample(wanted, len(wanted)):
                for contender in random.sample(self.everybody, len(self.everybody)):
                    if load.udp and not contender.carries_udp:
                        continue
                    answer = self.run_load(load, contender)
                    for figure in load.figures:
                        value = None if answer is None else answer[figure.key] * figure.scale
                        kept.setdefault(figure.title, {}).setdefault(contender.name, []).append(value)
            took = time.monotonic() - begun
            print(f"{mode}: round {turn + 1} of {self.chosen.rounds}, {took:.0f} s", file=sys.stderr, flush=True)

    def run_memory(self) -> None:
        """Open idle connections through everybody, one after another."""
        for contender in list(self.everybody):
            try:
                self.memory[contender.name] = idle.measure_memory(self.segment, contender, self.chosen.idle)
            except (ContenderError, OSError) as error:
                self.leave_out(contender, error)
            print(f"memory: {contender.name}", file=sys.stderr, flush=True)

    def run_switches(self, mode: str) -> None:
        """Switch everybody to the other server and back, shuffled."""
        kept = self.switches.setdefault(mode, {})
        number = {contender.name: 1 for contender in self.everybody}
        for _ in range(self.chosen.switches):
            for contender in random.sample(self.everybody, len(self.everybody)):
                if contender.can_switch:
                    to = number[contender.name] = 3 - number[contender.name]
                    self.start_servers()
                    try:
                        found = idle.measure_switch(
                            self.segment, contender, max(self.chosen.idle), to, seconds=SWITCH_S
                        )
                    except (ContenderError, OSError) as error:
                        self.leave_out(contender, error)
                    else:
                        kept.setdefault(contender.name, []).append(found)
        for contender in list(self.everybody):
            if number[contender.name] != 1:
                try:
                    contender.switch(1)
                except (ContenderError, OSError) as error:
                    self.leave_out(contender, error)
        print(f"{mode}: {self.chosen.switches} switches each", file=sys.stderr, flush=True)

    def leave_out(self, contender: Contender, error: Exception) -> None:
        """Go on without somebody who does not work."""
        self.everybody.remove(contender)
        self.complain(f"{contender.name} is left out from here on: {error}")

    def run(self, wanted: list[loads.Load]) -> None:
        """Measure what was asked for."""
        every = set(range(os.cpu_count() or 1)) & os.sched_getaffinity(0)
        modes = {"pinned": {max(every)}, "unpinned": every}
        self.start()
        if self.chosen.memory:
            self.run_memory()
        for mode in self.chosen.modes:
            os.sched_setaffinity(0, modes[mode])  # what we start from here on
            self.segment.pin(modes[mode])
            if wanted:
                self.run_rounds(mode, wanted)
            if self.chosen.switch:
                self.run_switches(mode)
        os.sched_setaffinity(0, every)

    # --- what came of it

    def markdown(self, facts: dict[str, str], wanted: list[loads.Load]) -> str:
        """Return the whole report."""
        names = [kind.name for kind in contenders.ALL if kind in self.kinds]
        figures = [figure for load in wanted for figure in load.figures]
        parts = ["## The data plane side by side\n", report.head(facts)]
        for mode, rounds in self.rounds.items():
            where = "pinned to one core" if mode == "pinned" else "on all cores"
            shown = [figure for figure in figures if figure.title in rounds]
            parts.append(report.values(f"Medians, {where} [min-max]", shown, rounds, names))
            for to, other in (("haproxy", "HAProxy"), ("connection", "a direct connection"), ("nginx", "nginx")):
                if to not in names or len(names) < 2:
                    continue
                some = [each for each in shown if to != "nginx" or each.title.startswith("UDP")]
                if any(each.is_ratio for each in some):
                    parts.append(report.ratios(f"x {other}, {where} [min-max of the rounds]", some, rounds, names, to))
        if self.memory:
            parts.append(report.memory(self.memory))
        for mode, found in self.switches.items():
            where = "pinned to one core" if mode == "pinned" else "on all cores"
            if found:
                parts.append(report.switches(f"A switch to another server, {where} [min-max]", found))
        if self.complaints:
            parts.append("Not well:\n\n" + "\n".join(f"- {text}" for text in self.complaints) + "\n")
        return "\n".join(parts)

    def table(self) -> results.Table:
        """Return the medians for `compare`: a row a figure and mode, a column a contender."""
        found: results.Table = {}

        def note(row: str, name: str, values: Sequence[float | None]) -> None:
            known = [value for value in values if value is not None]
            if known:
                found.setdefault(row, {})[name] = statistics.median(known)

        for mode, rounds in self.rounds.items():
            for title, row in rounds.items():
                for name, values in row.items():
                    note(f"{title}, {mode}", name, values)
                    if name != "haproxy":
                        note(f"{title}, {mode}, x HAProxy", name, report.by_round(row, name, "haproxy"))
        for name, counts in self.memory.items():
            for count, one in counts.items():
                note(f"{count:,} idle, KB each", name, [one.get("own_kb")])
        for mode, switched in self.switches.items():
            for name, each in switched.items():
                for key in ("last_notice_ms", "served_ms"):
                    note(f"switch, {key}, {mode}", name, [one[key] for one in each])
        return found


def facts_of(chosen: argparse.Namespace, versions: dict[str, str]) -> dict[str, str]:
    """Return what the figures depend on."""
    said = [f"{name} {version}" for name, version in versions.items() if version]
    return {
        "machine": f"{os.cpu_count()} cores, kernel {platform.release()}, Python {platform.python_version()}",
        "others": ", ".join(said) or "none",
        "method": f"{chosen.rounds} shuffled rounds, {chosen.seconds:g} s each load, rates {chosen.concurrent} at once",
        "measured": time.strftime("%Y-%m-%d %H:%M") + f", load of the machine at the start {os.getloadavg()[0]:.1f}",
    }


def available(wanted: Iterable[str]) -> tuple[list[type[Contender]], dict[str, str], list[str]]:
    """Return who can run here, their versions, and who is left out and why."""
    kinds, versions, left_out = [], {}, []
    for kind in contenders.ALL:
        if kind.name in wanted:
            try:
                versions[kind.name] = kind.version()
                kinds.append(kind)
            except programs.MissingError as error:
                left_out.append(f"left out: {error}")
    return kinds, versions, left_out


def parse() -> argparse.Namespace:
    every = [kind.name for kind in contenders.ALL if kind is not contenders.Before]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(every), metavar="NAMES", help=f"of {','.join(every)}")
    known = ", ".join(load.name for load in loads.loads(1)) + ", bulk, rate, udp, idle, switch"
    parser.add_argument("--loads", default="", metavar="NAMES", help=f"of {known} (default: all)")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=0.6, help="of each load in each round (default 0.6)")
    parser.add_argument("--modes", default="pinned,unpinned", help="pinned: all on one core; unpinned: on all")
    parser.add_argument("--concurrent", type=int, default=32, help="connections at once in rate4k and rate64k")
    parser.add_argument("--idle", default="", metavar="COUNTS", help="open connections (default 1000,10000)")
    parser.add_argument("--switches", type=int, default=3, help="of each contender, in each mode")
    parser.add_argument("--quick", action="store_true", help="a short look: 2 rounds, pinned, half a second each")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="beside the proxy of this other checkout")
    parser.add_argument("--markdown", type=Path, default=MARKDOWN, help="the tables go here, too")
    results.add_arguments(parser)
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.rounds, chosen.seconds, chosen.modes, chosen.switches = 2, 0.5, "pinned", 1
    if chosen.before is not None:
        contenders.Before.source = chosen.before.resolve()
        every.append(contenders.Before.name)
        chosen.only += f",{contenders.Before.name}"
    chosen.only, chosen.modes = chosen.only.split(","), chosen.modes.split(",")
    chosen.idle = [int(count) for count in chosen.idle.split(",")] if chosen.idle else IDLE_COUNTS
    named = [name for name in chosen.loads.split(",") if name]
    chosen.memory, chosen.switch = not named or "idle" in named, not named or "switch" in named
    asked = [name for name in named if name not in ("idle", "switch")]
    if unknown := [name for name in chosen.only if name not in every]:
        parser.error(f"no contender '{unknown[0]}': there are {', '.join(every)}")
    if unknown := [mode for mode in chosen.modes if mode not in ("pinned", "unpinned")]:
        parser.error(f"no mode '{unknown[0]}': there are pinned and unpinned")
    try:
        everything = [load.name for load in loads.loads(chosen.concurrent)]
        chosen.loads = loads.chosen(asked if named else everything, chosen.concurrent)
    except ValueError as error:
        parser.error(str(error))
    return chosen


def main() -> None:
    chosen = parse()
    try:
        binary()
    except NoCompilerError as error:
        raise SystemExit(f"the data plane is not measured: {error}") from None
    if os.geteuid() != 0:
        raise SystemExit("the data plane is not measured: network namespaces need root")
    limit = contenders.raise_file_limit()
    room = contenders.connections_max() - BESIDES_IDLE
    chosen.idle = sorted({min(count, room) for count in chosen.idle})
    kinds, versions, left_out = available(chosen.only)
    facts = facts_of(chosen, versions)
    facts["limits"] = f"{limit:,} file descriptors a process, so at most {contenders.connections_max():,} connections"
    hosts = {"client": 1, "be1": 101, "be2": 102} | {f"gw-{kind.name}": 11 + at for at, kind in enumerate(kinds)}
    end_by_signals()
    with Segment(hosts) as segment:
        bench = Bench(segment, chosen, kinds)
        bench.complaints += left_out
        try:
            bench.run(chosen.loads)
            bench.stop()
        except KeyboardInterrupt:
            bench.complain("interrupted: this is what there was so far")
        except (ContenderError, SegmentError, OSError) as error:
            bench.complain(f"broken off: {error}")
    text = bench.markdown(facts, chosen.loads)
    print(text)
    chosen.markdown.parent.mkdir(parents=True, exist_ok=True)
    chosen.markdown.write_text(text)
    if chosen.save is not None:
        results.save("plane", bench.table(), chosen)
        raw = {"rounds": bench.rounds, "memory": bench.memory, "switches": bench.switches}
        chosen.save.with_suffix(".rounds.json").write_text(json.dumps(raw, indent=1) + "\n")
    if bench.corrupt:
        raise SystemExit("wrong bytes arrived: see above")


if __name__ == "__main__":
    main()
