"""Logs never hold the control process up."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = """
import sys, time
import structlog
from gateway.config.settings import LogFormat
from gateway.console.logs import start_log, stop_log
start_log(LogFormat.JSON, "cm1")
log = structlog.get_logger()
started = time.monotonic()
for number in range(int(sys.argv[1])):
    log.info("election.won", term=number, padding="x" * 200)
sys.stderr.write(str(time.monotonic() - started))
sys.stderr.close()
stop_log()
"""


def test_a_log_that_nobody_reads_costs_lines_and_no_time() -> None:
    reading, writing = os.pipe()  # never read: 64 KiB and it is full
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, "50000"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    try:
        assert process.stderr is not None
        took_s = float(process.stderr.read())
        assert took_s < 30, "50,000 events on a busy machine"
    finally:
        os.close(reading)
        process.kill()
        process.wait()


def test_an_event_is_one_line_with_its_fields_and_the_time() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, "2"], capture_output=True, text=True, timeout=60)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["event"], line["term"], line["node"], line["level"]) for line in lines] == [
        ("election.won", 0, "cm1", "info"),
        ("election.won", 1, "cm1", "info"),
    ]
    assert abs(lines[0]["at"] - time.time()) < 600


def test_two_processes_that_share_a_log_never_mix_their_lines(tmp_path: Path) -> None:
    with open(tmp_path / "log", "ab") as log:
        writers = [
            subprocess.Popen([sys.executable, "-c", SCRIPT, "3000"], stdout=log, stderr=subprocess.DEVNULL)
            for _ in range(2)
        ]
        for writer in writers:
            assert writer.wait(60) == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) > 1000
    assert all(json.loads(line) for line in lines if not line.startswith("("))
