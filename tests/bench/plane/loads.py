"""The loads: what the client does, and which figures of its answer are kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One number of a load."""

    title: str
    key: str  # in the load generator's answer
    scale: float = 1
    less_is_better: bool = False
    is_ratio: bool = True  # whether to divide it by others' makes sense


@dataclass(frozen=True)
class Load:
    """One thing that the client does."""

    name: str
    group: str  # chooses several by one word
    command: str
    numbers: tuple[str, ...]  # its arguments; "T" is the time, "S" and "P" the server's own address and port
    figures: tuple[Figure, ...]
    udp: bool = False

    def argv(self, address: str, port: int, seconds: float, server: str) -> list[str]:
        """Return the load generator's arguments."""
        known = {"T": str(seconds), "S": server, "P": str(port)}
        return [self.command, address, str(port), *(known.get(number, number) for number in self.numbers)]

    def complaint(self, answer: Mapping[str, Any]) -> str:
        """Return what was wrong besides slow; "" for nothing."""
        wrong = [f"{answer[key]} {key}" for key in ("corrupt", "broken", "failed", "repeated") if answer.get(key)]
        if not self.udp and not any(answer.get(key) for key in ("bytes", "done", "asked")):
            wrong.append("nothing moved")
        return ", ".join(wrong)


def _bulk(direction: str, streams: int) -> Load:
    title = f"bulk {direction}, {streams} stream{'s' if streams > 1 else ''}, Gbit/s"
    return Load(f"{direction}{streams}", "bulk", direction, (str(streams), "T"), (Figure(title, "gbit"),))


def _rate(name: str, request: int, reply: int, concurrent: int) -> Load:
    figures = (Figure(f"{name}, connections/s", "per_s"),)
    return Load(name, "rate", "rate", (str(request), str(reply), str(concurrent), "T"), figures)


def _udp(kilobytes: int, per_second: int) -> Load:
    at = f"at {per_second:,}/s" if per_second else "flat out"
    lost = Figure(f"UDP {kilobytes} KB {at}, lost %", "lost", 100, less_is_better=True, is_ratio=False)
    came = Figure(f"UDP {kilobytes} KB {at}, received/s", "received_per_s")
    name = f"udp{kilobytes}k" + ("-paced" if per_second else "")
    numbers = (str(kilobytes * 1024), "8", str(per_second), "T", "S", "P")
    return Load(name, "udp", "udp", numbers, (lost,) if per_second else (came, lost), udp=True)


def loads(concurrent: int) -> tuple[Load, ...]:
    """Return all of them."""
    latency = (
        Figure("latency p50, us", "p50_us", less_is_better=True),
        Figure("latency p99, us", "p99_us", less_is_better=True),
    )
    return (
        _bulk("up", 1),
        _bulk("up", 8),
        _bulk("down", 1),
        _bulk("down", 8),
        _rate("rate4k", 2_048, 4_096, concurrent),
        _rate("rate64k", 4_096, 65_536, concurrent),
        Load("latency", "latency", "latency", ("64", "T"), latency),
        _udp(1, 0),
        _udp(3, 0),
        _udp(1, 20_000),
        _udp(3, 20_000),
    )


def chosen(names: Sequence[str], concurrent: int) -> list[Load]:
    """Return the loads of these names or groups. Raises `ValueError` for one that there is not."""
    every = loads(concurrent)
    known = {load.name for load in every} | {load.group for load in every}
    for name in names:
        if name not in known:
            raise ValueError(f"no load '{name}': there are {', '.join(sorted(known))}, idle and switch")
    return [load for load in every if load.name in names or load.group in names]
