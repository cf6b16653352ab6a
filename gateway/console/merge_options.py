"""Merge options: what the merge command is told besides its files, from words to values.

Rule: what is written on the command line outweighs what this host's HTCondor says, and that outweighs a default.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # every command adds these arguments, and one of them merges
    from gateway.console.merge import Given
    from gateway.core.reconcile import Pool

UPDATE_INTERVAL_S = 300  # HTCondor's default


def add_arguments(merge: argparse.ArgumentParser) -> None:
    """Add the merge command's arguments and options."""
    merge.add_argument("base", metavar="BASE", help="the Accountantnew.log that all sides started from")
    merge.add_argument("ours", metavar="OURS", help="the Accountantnew.log of one side")
    merge.add_argument(
        "theirs", metavar="THEIRS", nargs="+", help="that of another side; of several, if there are more"
    )
    merge.add_argument("-o", "--out", required=True, metavar="OUT", help="the merged file; owned as OURS is")
    merge.add_argument("--force", action="store_true", help="replace OUT if it exists")
    merge.add_argument("--report", action="store_true", help="say of each customer and each edit what became of it")
    merge.add_argument("--json", action="store_true", help="the whole report, for programs")

    sides = merge.add_argument_group("what is known of the sides")
    sides.add_argument(
        "--terms", metavar="N,N,...", help="terms of the leaders that wrote them: the highest wins conflicts"
    )
    sides.add_argument(
        "--took-over",
        metavar="T,T,...",
        help="when each one's negotiator started on a copy of BASE, in seconds since 1970; 0 where it ran all along",
    )
    sides.add_argument(
        "--ended",
        metavar="T,T,...",
        help="when each one's negotiator was stopped, in seconds since 1970: its matches are charged until then",
    )

    pool = merge.add_argument_group("what is known of the pool; defaults are HTCondor's own")
    pool.add_argument(
        "--from-host", action="store_true", help="ask this host's HTCondor (condor_config_val) for all these"
    )
    pool.add_argument("--half-life", type=float, metavar="SECONDS", help="PRIORITY_HALFLIFE")
    pool.add_argument("--default-factor", type=float, metavar="F", help="DEFAULT_PRIO_FACTOR")
    pool.add_argument(
        "--group-factor",
        action="append",
        default=[],
        metavar="GROUP=F",
        help="GROUP_PRIO_FACTOR_<GROUP>; once for each group that has one",
    )
    pool.add_argument("--lifetime", type=int, metavar="SECONDS", help="CLASSAD_LIFETIME")
    pool.add_argument("--update-interval", type=int, metavar="SECONDS", help="UPDATE_INTERVAL")
    merge.set_defaults(wrong_usage=merge.error)


def sides_of(chosen: argparse.Namespace) -> "list[Given]":
    """Return the sides with what is known of each."""
    from gateway.console.merge import Given

    paths = [Path(path) for path in (chosen.ours, *chosen.theirs)]
    terms, took_over, ended = (
        _one_each(chosen, option, text, len(paths))
        for option, text in (("--terms", chosen.terms), ("--took-over", chosen.took_over), ("--ended", chosen.ended))
    )
    return [
        Given(path, term=term or 0, took_over_s=took_over_s, ended_s=ended_s)
        for path, term, took_over_s, ended_s in zip(paths, terms, took_over, ended, strict=True)
    ]


def pool_of(chosen: argparse.Namespace) -> "Pool":
    """Return the pool's values. Raises `MergeRefused` where this host is asked for them and does not answer."""
    import msgspec

    from gateway.core.reconcile import Pool

    groups = dict(_group_factor(chosen, text) for text in chosen.group_factor)
    half_life_s, factor, lifetime_s, interval_s = (
        chosen.half_life,
        chosen.default_factor,
        chosen.lifetime,
        chosen.update_interval,
    )
    if not all(value is None or (value > 0 and math.isfinite(value)) for value in (half_life_s, factor)):
        chosen.wrong_usage("--half-life and --default-factor are more than nothing")
    if any(value is not None and value < 0 for value in (lifetime_s, interval_s)):
        chosen.wrong_usage("--lifetime and --update-interval are times: not less than nothing")
    pool = _of_host() if chosen.from_host else Pool()
    stale_s = pool.stale_s
    if lifetime_s is not None or interval_s is not None:
        known_s = pool.lifetime_s - pool.stale_s if chosen.from_host else UPDATE_INTERVAL_S
        stale_s = (pool.lifetime_s if lifetime_s is None else lifetime_s) - (
            known_s if interval_s is None else interval_s
        )
    return msgspec.structs.replace(
        pool,
        half_life_s=half_life_s or pool.half_life_s,
        factor_default=factor or pool.factor_default,
        factor_groups={**pool.factor_groups, **groups},
        lifetime_s=pool.lifetime_s if lifetime_s is None else lifetime_s,
        stale_s=max(stale_s, 0),
    )


def _of_host() -> "Pool":
    import trio

    from gateway.console.merge import MergeRefused
    from gateway.matchmaker.condor import ToolFailed
    from gateway.matchmaker.poolvalues import pool_of

    try:
        return trio.run(pool_of)
    except ToolFailed as error:
        raise MergeRefused(f"this host's HTCondor cannot be asked (--from-host): {error}") from None


def _group_factor(chosen: argparse.Namespace, text: str) -> tuple[str, float]:
    group, _, number = text.rpartition("=")
    try:
        factor = float(number)
    except ValueError:
        factor = 0.0
    if not group or not (factor > 0 and math.isfinite(factor)):
        chosen.wrong_usage(f"--group-factor is written GROUP=F, say physics.hep=10, not '{text}'")
    return group, factor


def _one_each(chosen: argparse.Namespace, option: str, text: str | None, sides: int) -> Sequence[int | None]:
    """Return the numbers of an option that has one for each side; 0 is none."""
    if text is None:
        return [None] * sides
    words = text.split(",")
    # More than 18 digits are no time and no term; int() refuses thousands of them.
    if len(words) != sides or not all(word.isdecimal() and len(word) <= 18 for word in words):
        chosen.wrong_usage(f"{option} has one number for each of the {sides} sides, 0 for one not known, not '{text}'")
    return [int(word) or None for word in words]
