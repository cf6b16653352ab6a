"""Merging: the process that merges accounting histories for a node, so that control never waits for it.

Rule: it asks nothing of its host but memory and idle time, and ends with its parent. `python -m
gateway.matchmaker.merging`: one order a line on standard input, one answer a line on standard output
(`gateway.matchmaker.merge_letters`). What was read and merged is kept, so that the last of it is merged in no time.
"""

import os
import sys

NICE = 10  # behind everything that serves the pool
OOM_SCORE_MAX = "1000"  # where memory ends, this process ends first: a merge can be made again


def main() -> None:
    """Serve orders until the parent closes standard input."""
    step_back()
    # Not before: the imports take some 100 ms, which a real-time process would take from others.
    from gateway.matchmaker.merge_work import serve

    serve(sys.stdin.buffer, sys.stdout.buffer)
    os._exit(0)  # a thread still waits for the parent's next word: the interpreter would abort over its lock


def step_back() -> None:
    """Run behind all others: control, from which this process is made, may run in real time."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.nice(NICE)
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(OOM_SCORE_MAX)
    except OSError as error:  # no /proc in a container: the kernel then chooses by size
        print(f"merging: {error}", file=sys.stderr)  # noqa: T201 (to the service's log)


if __name__ == "__main__":
    main()
