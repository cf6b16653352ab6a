"""Logs never hold the control process up, and one event never fills the disk."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import structlog

from gateway.console.logs import EVENTS_PER_S_MAX, RateLimit, render_short

SCRIPT = """
import sys, time
import structlog
from gateway.config.settings import LogFormat
from gateway.console.logs import log_counts, start_log, stop_log
start_log(LogFormat(sys.argv[2]), "cm1")
log = structlog.get_logger()
started = time.monotonic()
for number in range(int(sys.argv[1])):
    log.info("election.won" if len(sys.argv) == 3 else f"{sys.argv[3]}-{number // 50}", term=number, padding="x" * 200)
sys.stderr.write(str(time.monotonic() - started))
sys.stderr.close()
stop_log()
"""


def run(*words, **more):
    return subprocess.run([sys.executable, "-c", SCRIPT, *words], stdout=subprocess.PIPE, text=True, timeout=60, **more)


def test_a_log_that_nobody_reads_costs_lines_and_no_time() -> None:
    reading, writing = os.pipe()  # never read: 64 KiB and it is full
    command = [sys.executable, "-c", SCRIPT, "20000", "json", "many"]
    process = subprocess.Popen(command, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    try:
        assert process.stderr is not None
        took_s = float(process.stderr.read())
        assert took_s < 30, "20,000 events on a busy machine"
    finally:
        os.close(reading)
        process.kill()
        process.wait()


def test_lines_that_were_dropped_are_told_as_an_event_of_their_own() -> None:
    command = [sys.executable, "-c", SCRIPT, "20000", "json", "many"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr.read(1)  # all are logged, and nobody has read one
    lines = [json.loads(line) for line in process.stdout]
    assert process.wait(60) == 0
    told = [line for line in lines if line["event"] == "log.dropped"]
    written = [line for line in lines if line["event"].startswith("many")]
    assert (told[0]["level"], told[0]["node"]) == ("warning", "cm1")
    assert len(written) + sum(line["lines"] for line in told) == 20_000


def test_an_event_is_one_line_with_its_fields_and_the_time() -> None:
    lines = [json.loads(line) for line in run("2", "json").stdout.splitlines()]
    assert [(line["event"], line["term"], line["node"], line["level"]) for line in lines] == [
        ("election.won", 0, "cm1", "info"),
        ("election.won", 1, "cm1", "info"),
    ]
    assert abs(lines[0]["at"] - time.time()) < 600


def test_two_processes_that_share_a_log_never_mix_their_lines(tmp_path: Path) -> None:
    with open(tmp_path / "log", "ab") as log:
        command = [sys.executable, "-c", SCRIPT, "3000", "json", "many"]
        writers = [subprocess.Popen(command, stdout=log, stderr=subprocess.DEVNULL) for _ in range(2)]
        for writer in writers:
            assert writer.wait(60) == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) > 1000
    assert all(json.loads(line) for line in lines)


# -- too many --------------------------------------------------------------------------------------------------------


def test_event_that_comes_too_often_is_left_out_and_its_number_told() -> None:
    lines = [json.loads(line) for line in run("5000", "json").stdout.splitlines()]
    told = sum(line["lines"] for line in lines if line["event"] == "log.suppressed")
    written = sum(line["event"] == "election.won" for line in lines)
    assert {line["name"] for line in lines if line["event"] == "log.suppressed"} == {"election.won"}
    assert EVENTS_PER_S_MAX <= written < 2500
    assert written + told == 5000


def passed(limit, name, times):
    number = 0
    for _ in range(times):
        try:
            limit(None, "info", {"event": name})
            number += 1
        except structlog.DropEvent:
            pass
    return number


def test_each_name_has_its_own_limit_in_each_second() -> None:
    now, told = [10.0], []
    limit = RateLimit(lambda name, lines: told.append((name, lines)), lines_max=3, clock=lambda: now[0])
    assert [passed(limit, "a", 5), passed(limit, "b", 2)] == [3, 2]
    assert told == []
    now[0] = 11.2
    assert passed(limit, "b", 1) == 1
    assert told == [("a", 2)]
    assert passed(limit, "a", 4) == 3
    limit.close()
    assert told == [("a", 2), ("a", 1)]
    assert limit.suppressed_total == 3


def test_line_about_left_out_lines_is_never_left_out() -> None:
    limit = RateLimit(lambda name, lines: None, lines_max=1, clock=lambda: 5.0)
    assert passed(limit, "log.suppressed", 9) == 9


# -- forms -----------------------------------------------------------------------------------------------------------


def test_short_form_is_a_line_for_people() -> None:
    said = {
        "at": 1_795_000_001.5,
        "level": "error",
        "event": "relay.died",
        "node": "gw1",
        "status": -9,
        "reason": "it was killed",
        "again": True,
        "server": None,
        "names": ["a", "b"],
    }
    assert render_short(said) == (
        "2026-11-18T11:06:41.500Z error    relay.died"
        ' status=-9 reason="it was killed" again=yes server=- names=["a", "b"]'
    )
    assert "\n" not in render_short({"event": "x", "reason": "two\nlines"})


@pytest.mark.parametrize("form", ["json", "short", "console"])
def test_journal_gets_the_priority_of_each_line(form) -> None:
    ours, journal = socket.socketpair()
    found = os.fstat(journal.fileno())
    environment = os.environ | {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
    with ours, journal:
        subprocess.run([sys.executable, "-c", SCRIPT, "2", form], stdout=journal, env=environment, check=True,
                       stderr=subprocess.DEVNULL, timeout=60)  # fmt: skip
        journal.close()
        lines = ours.makefile().read().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("<6>") for line in lines)
    assert not any(re.match(r"<6>\d{4}-", line) for line in lines), "the journal has a clock of its own"


def test_no_priority_is_written_where_standard_output_is_something_else() -> None:
    environment = os.environ | {"JOURNAL_STREAM": "8:12345"}
    assert run("1", "short", env=environment).stdout.startswith("20")
