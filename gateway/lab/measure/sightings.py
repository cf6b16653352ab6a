"""From what the pulse and the capture wrote to figures: gaps, owners, frames too many. Pure: texts and times in.

A gap begins at the last probe that was answered in time and ends with the next answer to such a one: an upper bound,
wide by one period. Times are unix seconds.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from gateway.lab.measure.pulse import KINDS, TICK

# An answer that took longer was no use then: kernels on one switch answer in 0.1 ms, the rest is a busy machine.
LATE_S = 0.010
# An owner answers the bystander every 2 ms. A pause of five such questions parts one time of owning from the next.
OWNER_PAUSE_S = 0.010
# After a heal the address may be silent for a second; whoever is silent for so long later has lost it for good.
HEAL_S_MAX = 1.0
BLACK_HOLE_S = 0.2

Span = tuple[float, float]


class Sightings(msgspec.Struct, frozen=True):
    """What one repeat recorded: probes by number, answers by kind and number, owners' frames by port."""

    sent: Mapping[int, float]
    answered: Mapping[str, Mapping[int, float]]
    frames: Mapping[str, Sequence[float]]


def read(pulse: str, capture: str) -> Sightings:
    """Return what the two files say; lines that were not finished are passed over."""
    sent: dict[int, float] = {}
    answered: dict[str, dict[int, float]] = {name: {} for name in KINDS.values()}
    for line in pulse.splitlines():
        kind, _, rest = line.partition(" ")
        number, _, at = rest.partition(" ")
        if not at:
            continue
        if kind == TICK:
            sent[int(number)] = float(at)
        elif kind in KINDS:
            answered[KINDS[kind]].setdefault(int(number), float(at))
    frames: dict[str, list[float]] = {}
    for line in capture.splitlines():
        fields = line.split()
        if len(fields) == 3:
            frames.setdefault(fields[0], []).append(float(fields[2]))
    return Sightings(sent, answered, {port: sorted(times) for port, times in frames.items()})


def outages(seen: Sightings, kind: str, since: float, until: float) -> Iterator[Span]:
    """Yield (start, end) of each time without an answer to probes of this kind that were sent in [since, until)."""
    answered = seen.answered[kind]
    numbers = [number for number in sorted(seen.sent) if since <= seen.sent[number] < until]
    if not numbers:
        return
    start, losing = seen.sent[numbers[0]], False
    for number in numbers:
        at = answered.get(number)
        if at is not None and at - seen.sent[number] <= LATE_S:
            if losing:
                yield start, at
            start, losing = seen.sent[number], False
        else:
            losing = True
    if losing:
        yield start, seen.sent[numbers[-1]]


def blackout_ms(seen: Sightings, kind: str, since: float, until: float) -> float | None:
    """Return the longest outage; 0.0 when every probe was answered, None where none was sent."""
    if not any(since <= at < until for at in seen.sent.values()):
        return None
    return max((end - start for start, end in outages(seen, kind, since, until)), default=0.0) * 1000.0


def owner_spans(times: Sequence[float]) -> list[Span]:
    """Return when the sender of frames at these times was an owner, as spans parted by pauses."""
    spans: list[Span] = []
    for at in times:
        if spans and at - spans[-1][1] <= OWNER_PAUSE_S:
            spans[-1] = (spans[-1][0], at)
        else:
            spans.append((at, at))
    return spans


def two_owner_ms(seen: Sightings, since: float, until: float) -> float:
    """Return for how long two ports were owners at once."""
    total = 0.0
    for one, other in itertools.combinations(sorted(seen.frames), 2):
        for left, right in itertools.product(owner_spans(seen.frames[one]), owner_spans(seen.frames[other])):
            total += max(0.0, min(left[1], right[1], until) - max(left[0], right[0], since))
    return total * 1000.0


def owners(seen: Sightings, since: float, until: float) -> set[str]:
    """Return the ports that sent anything in the name of the address."""
    return {port for port, times in seen.frames.items() if any(since <= at < until for at in times)}


def frames_after(seen: Sightings, port: str, since: float) -> int:
    """Return how many frames a port sent in the name of the address from `since` on."""
    return sum(1 for at in seen.frames.get(port, ()) if at >= since)


def first_of_another(seen: Sightings, port: str, since: float) -> tuple[float, str] | None:
    """Return (time, port) of the first frame of any other port since then."""
    first = [(at, other) for other, times in seen.frames.items() if other != port for at in times if at >= since]
    return min(first, default=None)


def black_holed(seen: Sightings, healed_at: float | None, until: float) -> bool:
    """Return whether the address was lost for good: silent for long later than a second after the heal, or at the end.

    Without a heal (None) only the end counts.
    """
    since = until - BLACK_HOLE_S if healed_at is None else healed_at + HEAL_S_MAX
    limit_ms = BLACK_HOLE_S * 1000 * 0.9  # the last probe was sent a little before the end
    return any((blackout_ms(seen, kind, since, until) or 0.0) >= limit_ms for kind in seen.answered)


def late_ms(seen: Sightings, since: float, until: float) -> float | None:
    """Return the longest pause of the pulse itself: a gap of that length may have been overlooked or made up."""
    times = [at for _, at in sorted(seen.sent.items()) if since <= at < until]
    return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0) * 1000 if times else None
