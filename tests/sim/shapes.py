"""Shapes: the clusters that are simulated, and the periods that they run with. Data only."""

import random

import msgspec

from gateway.core.node import ElectionPlan
from gateway.core.timing import Timing


class Shape(msgspec.Struct, frozen=True):
    """A cluster: who is in it, who may lead what, and the periods to choose from."""

    voters: tuple[str, ...]
    plans: tuple[ElectionPlan, ...]
    timings: tuple[tuple[int, int], ...]  # (heartbeat_ms, lease_ms)
    serve: bool = False  # `on-partition serve`: each side of a partition has a leader

    def timing(self, rng: random.Random) -> Timing:
        heartbeat_ms, lease_ms = rng.choice(self.timings)
        return Timing(heartbeat_ms=heartbeat_ms, lease_ms=lease_ms)


def _both(*names: str) -> tuple[ElectionPlan, ...]:
    """Every host is gateway and manager at once; the preferences are opposite, so that the leaders differ."""
    return (ElectionPlan("address", names), ElectionPlan("matchmaker", names[::-1]))


def _apart(gateways: tuple[str, ...], managers: tuple[str, ...]) -> tuple[ElectionPlan, ...]:
    return (ElectionPlan("address", gateways), ElectionPlan("matchmaker", managers))


_GATEWAYS = ("gw1", "gw2", "gw3")
_MANAGERS = ("cm1", "cm2", "cm3", "cm4", "cm5", "cm6")

_FIVE = (_GATEWAYS[:2], _MANAGERS[:3])
_PAIR = ((20, 120), (50, 300), (100, 600), (200, 2000))

SHAPES: dict[str, Shape] = {
    "1": Shape(("n1",), _both("n1"), ((50, 300), (200, 2000))),
    "2-hold": Shape(("n1", "n2"), _both("n1", "n2"), _PAIR),
    "2-serve": Shape(("n1", "n2"), _both("n1", "n2"), _PAIR, serve=True),
    "2+witness": Shape(("n1", "n2", "w1"), _both("n1", "n2"), _PAIR),
    "3": Shape(("n1", "n2", "n3"), _both("n1", "n2", "n3"), (*_PAIR, (50, 300))),
    # Where there are many to beat, longer beats keep the run affordable; every period scales with them.
    "5": Shape(_FIVE[0] + _FIVE[1], _apart(*_FIVE), ((50, 300), (100, 600), (200, 2000))),
    "9": Shape(_GATEWAYS + _MANAGERS, _apart(_GATEWAYS, _MANAGERS), ((200, 1200), (300, 2000))),
}
# Of a hundred seeds so many are of this shape: small clusters are cheap, and their elections the closest.
WEIGHTS = {"1": 2, "2-hold": 24, "2-serve": 24, "2+witness": 14, "3": 20, "5": 10, "9": 6}
