"""The table of the address scenarios: a line for each case and heartbeat, the systems side by side. Text from values.

`median`, `p95`, `max`: the gap, the longest of UDP, ICMP and TCP. `next`: the median time to another owner's first
frame. `two own`: the longest time with two owners. `frames`: most frames of a frozen owner after its lease. `holes`:
repeats in which nobody answered for good. All times in milliseconds.
"""

from collections.abc import Sequence

from gateway.lab.measure.records import Result, percentile, spread

_COLUMNS = (
    ("runs", 5),
    ("median", 8),
    ("p95", 8),
    ("max", 8),
    ("next", 8),
    ("two own", 8),
    ("frames", 7),
    ("holes", 6),
)
_WIDTH = sum(width for _, width in _COLUMNS)
_NAME, _BEAT = 28, 9


def table(results: Sequence[Result]) -> str:
    """Return the table of `results`, in the order of their first appearance."""
    systems = list(dict.fromkeys(result.system for result in results))
    head = "".join(f"{name:>{width}}" for name, width in _COLUMNS)
    lines = [
        " " * (_NAME + _BEAT) + "".join(f"   {system:^{_WIDTH}}" for system in systems).rstrip(),
        f"{'scenario':<{_NAME}}{'heartbeat':>{_BEAT}}" + f"   {head}" * len(systems),
    ]
    lines.append("-" * len(lines[1]))
    refused: list[str] = []
    for key in dict.fromkeys((_name(result), result.heartbeat_ms) for result in results):
        line = f"{key[0]:<{_NAME}}{f'{key[1]} ms':>{_BEAT}}"
        for system in systems:
            group = [one for one in results if (_name(one), one.heartbeat_ms) == key and one.system == system]
            line += f"   {_figures([one for one in group if one.healthy_before])}"
            refused += [_refusal(one) for one in group if not one.healthy_before]
        lines.append(line.rstrip())
    return "\n".join(lines + ([""] if refused else []) + refused)


def _name(result: Result) -> str:
    return f"{result.scenario}/{result.variant}" if result.variant else result.scenario


def _refusal(one: Result) -> str:
    reasons = "; ".join(one.refused or ("not healthy",))
    return f"not measured: {_name(one)} at {one.heartbeat_ms} ms, {one.system}, repeat {one.repeat}: {reasons}"


def _figures(group: Sequence[Result]) -> str:
    if not group:
        return f"{'-':>{_COLUMNS[0][1]}}".ljust(_WIDTH)
    gaps = spread([one.blackout_ms for one in group])
    following = spread([one.successor_ms for one in group])
    owners = spread([one.two_owner_ms for one in group])
    frames = spread([one.packets_after_lease for one in group])
    cells = (
        str(len(group)),
        _cell(gaps.median if gaps else None),
        _cell(percentile([one.blackout_ms for one in group], 95)),
        _cell(gaps.high if gaps else None),
        _cell(following.median if following else None),
        _cell(owners.high if owners else None),
        _cell(frames.high if frames else None),
        str(sum(1 for one in group if one.black_holed)),
    )
    return "".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, _COLUMNS, strict=True))


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 100 and value != int(value) else f"{value:.0f}"
