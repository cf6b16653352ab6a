"""Transcripts: scenarios in text files, each command followed by all that the nodes then did. Run to rewrite them.

`python -m tests.core.transcript --rewrite` writes what happens now; commit the difference only if you understand it.
Heartbeats, their answers and the leases that they extend are left out where nothing else happens.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from gateway.core import orders
from gateway.core.actions import Action, ExtendServing, Send
from gateway.core.events import DeadlineReached, Event, MessageReceived, ResignationRequested
from gateway.core.node import ElectionPlan
from gateway.core.timing import Timing
from gateway.wire.messages import Ack, Pulse
from tests.sim.clock import SimClock
from tests.sim.host import Host
from tests.sim.network import Weather, isolate
from tests.sim.ordering import give
from tests.sim.report import describe_actions, describe_event, roles
from tests.sim.shapes import Shape
from tests.sim.world import World

TESTDATA = Path(__file__).parent / "testdata"
E = "address"
NETWORK = Weather(loss=0.0, duplicates=0.0, stragglers=0.0, delay_us=1_000, jitter_us=0)


class Stage(World):
    """A world without chance: exact clocks, 1 ms of network, 3 ms of disk, 10 ms to stop.

    Args:
        words: the nodes, candidates all but those named `NAME:witness`, best first; `serve`: each side of a
            partition serves.
    """

    def __init__(self, words: tuple[str, ...]) -> None:
        names = tuple(word.split(":")[0] for word in words if word != "serve")
        candidates = tuple(word for word in words if word in names)
        shape = Shape(names, (ElectionPlan(E, candidates),), ((50, 300),), serve="serve" in words)
        super().__init__(shape, seed=1, trace=self.say, plain=True)
        self.lines: list[str] = []
        self.network.weather = NETWORK
        for host in self.hosts:
            host.clock = SimClock(0, 0)
            host.fsync_us, host.confirm_us, host.stop_us = (3_000, 3_000), (0, 0), (10_000, 10_000)
            host.ready_us, host.timer_us = (1_000, 1_000), 0
            host.start()

    def note(self, fault: str, detail: str = "") -> None:
        self.say(f"{self.now_us / 1000:8.0f} {detail} {fault}")

    def say(self, line: str) -> None:
        self.lines.append(line)

    def trace_step(self, host: Host, event: Event, actions: list[Action]) -> None:
        beat = isinstance(event, DeadlineReached) or (
            isinstance(event, MessageReceived) and isinstance(event.message, Pulse | Ack)
        )
        seen = [action for action in actions if not _is_routine(action)]
        if beat and not seen:
            return
        assert host.core is not None, "only who runs takes steps"
        what = describe_event(event)
        done = "".join(f"\n{'':24}{line}" for line in describe_actions(seen))
        self.say(f"{self.now_us / 1000:8.0f} {host.name} {roles(host.core):<6}   {what}{done}")

    # -- commands ------------------------------------------------------------------------------------------------

    def command(self, line: str) -> None:
        """Carry out one line of a transcript."""
        name, *arguments = line.split()
        getattr(self, f"do_{name}")(*arguments)

    def host(self, name: str) -> Host:
        return self.hosts[self.index[name]]

    def do_run(self, ms: str) -> None:
        self.run(self.now_us + int(ms) * 1000)

    def do_skip(self, ms: str) -> None:
        """Run, and say nothing of it: how a leader is made stands in `failover.txt`."""
        self.do_run(ms)
        self.lines.clear()

    def do_show(self) -> None:
        """Say what each node is, and until when it serves: heartbeats and what they extend are left out elsewhere."""
        for host in self.hosts:
            if host.core is not None:
                one = host.core.elections[E]
                lease = (
                    f"serves until {one.lease_until_ms}" if one.serving_term else f"follows {one.leader or 'nobody'}"
                )
                self.say(f"{self.now_us / 1000:8.0f} {host.name} {roles(host.core):<6}   {lease}")

    def do_crash(self, name: str) -> None:
        self.host(name).crash()

    def do_start(self, name: str) -> None:
        self.host(name).start()

    def do_reload(self, name: str, *periods: str) -> None:
        """Let a new process take over, with a heartbeat and a lease of its own perhaps."""
        timing = Timing(heartbeat_ms=int(periods[0]), lease_ms=int(periods[1])) if periods else None
        if not self.host(name).reload(timing):
            self.say(f"{name} is not free to be reloaded")

    def do_suspend(self, name: str) -> None:
        self.host(name).freeze(asleep=True)

    def do_freeze(self, name: str) -> None:
        self.host(name).freeze()

    def do_thaw(self, name: str) -> None:
        self.host(name).thaw()

    def do_isolate(self, name: str) -> None:
        self.network.cut(isolate(len(self.hosts), self.index[name], hears=False, is_heard=False))

    def do_deafen(self, name: str) -> None:
        self.network.cut(isolate(len(self.hosts), self.index[name], hears=False, is_heard=True))

    def do_cut(self, source: str, *to: str) -> None:
        """Block the way from one node to others, and not the way back."""
        self.network.cut(tuple((self.index[source], self.index[name]) for name in to))

    def do_delay(self, source: str, to: str, ms: str) -> None:
        self.network.clogged_us[self.index[source]][self.index[to]] = int(ms) * 1000

    def do_disk(self, name: str, word: str) -> None:
        """Become full, or have room again."""
        self.host(name).disk_full = word == "full"

    def do_heal(self) -> None:
        self.network.heal_all()

    def do_resign(self, name: str, successor: str = "") -> None:
        self.host(name).take(ResignationRequested(E, "maintenance", successor))

    def do_standing(self, name: str, *words: str) -> None:
        """Become fit, unfit, warm or cold; `generation=N` is fresher."""
        host = self.host(name)
        changes: dict[str, bool | int] = {}
        for word in words:
            if "=" in word:
                changes[word.split("=")[0]] = int(word.split("=")[1])
            else:
                changes["warm" if word in ("warm", "cold") else "fit"] = word in ("warm", "fit")
        host.change(msgspec.structs.replace(host.standings[E], **changes))

    def do_pause(self, name: str, reason: str = "maintenance") -> None:
        give(self.host(name), orders.paused, reason=reason)

    def do_resume(self, name: str) -> None:
        give(self.host(name), orders.resumed)

    def do_drain(self, name: str, node: str) -> None:
        give(self.host(name), orders.drained, node)

    def do_undrain(self, name: str, node: str) -> None:
        give(self.host(name), orders.undrained, node)

    def do_stop_takes(self, name: str, ms: str) -> None:
        self.host(name).stop_us = (int(ms) * 1000, int(ms) * 1000)

    def do_disk_takes(self, name: str, ms: str) -> None:
        self.host(name).fsync_us = (int(ms) * 1000, int(ms) * 1000)


def _is_routine(action: Action) -> bool:
    if isinstance(action, Send):
        return isinstance(action.message, Pulse | Ack)
    return isinstance(action, ExtendServing)


def play(script: str) -> str:
    """Play a transcript; return it with the outputs that belong to it now."""
    stage: Stage | None = None
    out: list[str] = []
    for block in script.strip().split("\n\n"):
        commands = []
        for line in block.splitlines():
            if line == "----":
                break
            out.append(line)
            if line and not line.startswith("#"):
                commands.append(line)
        for command in commands:
            if stage is None:
                assert command.startswith("cluster "), "a transcript begins with its cluster"
                stage = Stage(tuple(command.split()[1:]))
            else:
                stage.command(command)
        if commands:
            assert stage is not None, "a command was carried out"
            out += ["----", *stage.lines]
            stage.lines.clear()
        out.append("")
    return "\n".join(out)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.core.transcript", description=__doc__)
    parser.add_argument("--rewrite", action="store_true", help="write what happens now into the files")
    options = parser.parse_args()
    changed = 0
    for path in sorted(TESTDATA.glob("*.txt")):
        before = path.read_text()
        after = play(before)
        if after != before:
            changed += 1
            print(f"{'rewritten' if options.rewrite else 'differs'}: {path.name}")
            if options.rewrite:
                path.write_text(after)
    return 0 if options.rewrite else int(changed > 0)


if __name__ == "__main__":
    sys.exit(main())
