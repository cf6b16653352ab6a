"""Network: what becomes of a datagram. Loss, delay, reorder, duplicates, and cuts that are counted one by one."""

import random
from collections.abc import Sequence

import msgspec

Cut = tuple[tuple[int, int], ...]  # the one-way links that one fault blocks: (source, destination)

STRAGGLER_US_MAX = 2_000_000  # a datagram that sat in some queue; older ones never arrive


class Weather(msgspec.Struct):
    """How the network behaves at the moment. Probabilities from 0 to 1."""

    loss: float
    duplicates: float
    stragglers: float
    delay_us: int
    jitter_us: int
    corrupt: float = 0.0  # a bit flips on the way: the seal refuses it, so that it is as good as lost


FAIR = Weather(loss=0.0, duplicates=0.0, stragglers=0.0, delay_us=150, jitter_us=1_000)


class Network:
    """Links between hosts 0..n-1. Says when, and how often, a datagram arrives; never carries it.

    Args:
        hosts: number of hosts.
        rng: the run's only source of chance.
    """

    def __init__(self, hosts: int, rng: random.Random, weather: Weather) -> None:
        self.hosts = hosts
        self.rng = rng
        self.weather = weather
        self.blocked = [[0] * hosts for _ in range(hosts)]
        self.clogged_us = [[0] * hosts for _ in range(hosts)]  # what a link delays beyond the weather
        self._draw = rng.random
        self.lost = 0
        self.duplicated = 0
        self.strayed = 0
        self.corrupted = 0

    def arrivals_us(self, source: int, destination: int) -> Sequence[int]:
        """Return after how many microseconds each copy of a datagram arrives: none, one or two."""
        weather, draw = self.weather, self._draw
        if self.blocked[source][destination]:
            self.lost += 1
            return ()
        # The fourth power: most datagrams are on time, a few very late, so that the order changes.
        late = draw()
        late *= late
        delay_us = weather.delay_us + int(weather.jitter_us * late * late) + self.clogged_us[source][destination]
        luck = draw()
        if luck < 1.0 - weather.loss - weather.duplicates - weather.stragglers:
            return (delay_us,)
        if luck > 1.0 - weather.loss:
            self.lost += 1
            return ()
        if luck > 1.0 - weather.loss - weather.duplicates:
            self.duplicated += 1
            return (delay_us, delay_us + int(weather.jitter_us * draw() * 4))
        self.strayed += 1
        return (delay_us + int(STRAGGLER_US_MAX * draw() ** 2),)

    def counts(self) -> dict[str, int]:
        """Return what became of single datagrams."""
        return {
            "lost-datagram": self.lost,
            "duplicated-datagram": self.duplicated,
            "late-datagram": self.strayed,
            "corrupted-datagram": self.corrupted,
        }

    def corrupts(self) -> bool:
        """Draw whether a datagram that arrives has a flipped bit."""
        if self.weather.corrupt and self._draw() < self.weather.corrupt:
            self.corrupted += 1
            return True
        return False

    def cut(self, links: Cut) -> None:
        for source, destination in links:
            self.blocked[source][destination] += 1

    def heal(self, links: Cut) -> None:
        for source, destination in links:
            self.blocked[source][destination] -= 1

    def heal_all(self) -> None:
        self.blocked = [[0] * self.hosts for _ in range(self.hosts)]
        self.clogged_us = [[0] * self.hosts for _ in range(self.hosts)]


def isolate(hosts: int, who: int, *, hears: bool, is_heard: bool) -> Cut:
    """Cut one host off, or make it deaf or mute only."""
    others = [host for host in range(hosts) if host != who]
    cut = [] if is_heard else [(who, other) for other in others]
    return tuple(cut if hears else cut + [(other, who) for other in others])


def split(groups: list[list[int]]) -> Cut:
    """Cut every link between two groups."""
    return tuple(
        (one, other) for mine in groups for theirs in groups if mine is not theirs for one in mine for other in theirs
    )


def ring(order: list[int]) -> Cut:
    """Let each host hear only its neighbours in `order`, so that each sees another majority (Jepsen's name)."""
    size = len(order)
    reach = max((size // 2 + 1) // 2, 1)
    return tuple(
        (order[one], order[other])
        for one in range(size)
        for other in range(size)
        if one != other and min((one - other) % size, (other - one) % size) > reach
    )
