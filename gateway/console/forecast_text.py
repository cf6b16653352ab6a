"""A forecast as text: what would happen if a node died now. Pure."""

from collections.abc import Iterator

from gateway.core.forecast import Forecast, Succession


def forecast_text(forecast: Forecast) -> str:
    """Return a few lines: each election, then the votes that are left."""
    lines = [f"if {forecast.node} died now:"]
    if not forecast.heard:
        lines.append(f"  ({forecast.node} is not heard: it may be dead already)")
    for one in forecast.elections:
        lines += [f"  {line}" for line in _election(one, forecast.node)]
    lines.append(f"  {_votes(forecast)}")
    return "\n".join(lines)


def _election(one: Succession, node: str) -> Iterator[str]:
    what = f"{one.kind} {one.election}"
    if one.follower is None:
        yield f"{what}: NOBODY leads: {one.why_nobody}"
        return
    if one.leader is None:
        yield f"{what}: nobody leads now; {one.follower} is the best candidate"
        return
    if not one.leads:
        standbys = f"standing by: {', '.join(one.order)}" if one.order else "and nobody stands by for it"
        yield f"{what}: {one.follower} goes on; {standbys}"
        return
    yield f"{what}: {one.follower} follows, at once where the guard of {node} lives, else within {one.host_ms} ms"
    if one.cold:
        yield f"  the collector of {one.follower} does not have the pool's ads: they come with the next updates"
    if one.records_missing is None:
        yield f"  accounting records may be missing: {one.follower} has an older file"
    elif one.records_missing:
        yield f"  accounting records may be missing: {one.records_missing} when {one.follower} was last heard"
    if one.order[1:]:
        yield f"  after that: {', '.join(one.order[1:])}"
    else:
        yield "  after that: nobody stands by"


def _votes(forecast: Forecast) -> str:
    left = f"{forecast.left} of {forecast.voters} votes are left"
    if forecast.serve_apart:
        return f"{left}; each side of a partition serves, so none is needed (on-partition serve)"
    if forecast.more_may_fail < 0:
        return f"{left}, and {forecast.majority} are a majority: nobody serves"
    more = "no further node" if not forecast.more_may_fail else f"{forecast.more_may_fail} more"
    return f"{left}, {forecast.majority} are a majority: {more} may fail"
