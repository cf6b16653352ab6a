"""Takeover: how long a service is without a leader after its leader dies, over many deaths in a healthy cluster."""

from __future__ import annotations

import msgspec

from gateway.core.actions import StartServing
from gateway.core.timing import Timing

from .host import Host
from .network import Weather
from .shapes import SHAPES
from .world import SECOND_US, World

LAN = Weather(loss=0.0, duplicates=0.0, stragglers=0.0, delay_us=150, jitter_us=250)  # 0.2 ms on average
FSYNC_US = (2_500, 3_500)
GIVE_UP_US = 10 * SECOND_US


class Takeovers(msgspec.Struct, frozen=True):
    """Times from a leader's death to its successor's StartServing, in ms, sorted."""

    times_ms: list[float]

    def quantile(self, fraction: float) -> float:
        return self.times_ms[min(int(len(self.times_ms) * fraction), len(self.times_ms) - 1)]

    def __str__(self) -> str:
        return (
            f"{len(self.times_ms)} takeovers: min {self.times_ms[0]:.0f} p50 {self.quantile(0.5):.0f} "
            f"p99 {self.quantile(0.99):.0f} max {self.times_ms[-1]:.0f} ms"
        )


def measure(deaths: int, *, seed: int = 1, shape: str = "5", election: str = "matchmaker") -> Takeovers:
    """Kill the leader of `election` `deaths` times; each is back, and everything settled, before the next dies."""
    world = World(SHAPES[shape], seed, timing=Timing(heartbeat_ms=50, lease_ms=300), plain=True)
    world.network.weather = LAN
    starts: list[tuple[str, int]] = []

    def served(host: Host, action: StartServing) -> None:
        starts.append((action.election, world.now_us))

    world.on_serving = served
    for host in world.hosts:
        host.fsync_us = FSYNC_US
        host.start()
    times_ms = []
    for _ in range(deaths):
        world.run(world.now_us + 2 * SECOND_US + world.rng.randrange(SECOND_US))
        world.require_settled("before the leader's death")
        leader = world.hosts[world.audit.serving(election, world.now_us)[0]]
        died_us = world.now_us
        starts.clear()
        leader.crash()
        while not any(name == election for name, _ in starts):
            assert world.now_us - died_us < GIVE_UP_US, "nobody took over"
            world.run(world.now_us + 10_000)
        times_ms.append(next((at_us - died_us) / 1000 for name, at_us in starts if name == election))
        leader.start()
    return Takeovers(sorted(times_ms))
