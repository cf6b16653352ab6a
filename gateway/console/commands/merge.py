"""`condor-gateway merge`: accounting files that went on separately from a common base become one."""

import argparse
import sys
from pathlib import Path

from gateway.console.commands.common import OK, Refused
from gateway.console.merge_options import add_arguments, pool_of, sides_of

__all__ = ["DESCRIPTION", "EXAMPLES", "HELP", "NAME", "add_arguments", "run"]

NAME = "merge"
HELP = "merge accounting files that went on separately from a common base"
DESCRIPTION = """\
BASE, OURS and THEIRS are only read; they may be copies, and of negotiators that run. A list of numbers has one for OURS
and one for each of THEIRS, in their order, 0 for what is not known. To use OUT: stop the negotiator, put OUT in the
place of $(SPOOL)/Accountantnew.log, start the negotiator."""
EXAMPLES = ("condor-gateway merge base.log cm1.log cm2.log -o merged.log --report",)


def run(chosen: argparse.Namespace) -> int:
    """Merge the files."""
    from gateway.console.merge import MergeRefused, merge_files
    from gateway.matchmaker.histories import no_collection
    from gateway.matchmaker.merge_text import render_json, render_report, render_summary

    with no_collection():  # until the report is told: it holds a line for each customer that was touched
        sides = sides_of(chosen)
        try:
            pool = pool_of(chosen)
            done = merge_files(Path(chosen.base), sides, Path(chosen.out), pool, force=chosen.force)
        except MergeRefused as error:
            raise Refused(str(error)) from error
        for warning in done.warnings:
            print(f"condor-gateway: {warning}", file=sys.stderr)
        if chosen.json:
            print(render_json(done.merged.report))
            return OK
        print(render_summary(done.merged.report, chosen.out))
        if chosen.report:
            print(f"\n{render_report(done.merged.report)}")
        return OK
