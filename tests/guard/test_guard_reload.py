"""What the guard tells of a reload that fails, and to whom it tells what happened before."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from guard_harness import Guarded

Start = Callable[..., Guarded]


class Program:
    """What a guard starts as control: a command that may be missing for a while."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.put()

    def put(self) -> None:
        self.path.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        self.path.chmod(0o755)

    def take_away(self) -> None:
        self.path.unlink()


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path / "control")


def _events(running: Guarded) -> list[str]:
    return [event for _, event, _ in running.report()["notes"]]


def test_control_is_told_when_its_successor_cannot_be_started(guard: Start, program: Program) -> None:
    running = guard(program=str(program.path))
    running.ready()
    program.take_away()
    for _ in range(2):
        running.process.send_signal(signal.SIGHUP)
        assert f"can't be started: [Errno 2] No such file or directory: '{program.path}'" in running.says(
            "reload-failed"
        )


def test_reason_of_a_reload_is_not_that_of_the_one_before(guard: Start, program: Program) -> None:
    running = guard(program=str(program.path), heir="ends")
    running.ready()
    running.process.send_signal(signal.SIGHUP)
    assert running.says("reload-failed") == "the new process ended with status 3"
    program.take_away()
    running.process.send_signal(signal.SIGHUP)
    assert "can't be started" in running.says("reload-failed")


def test_notes_survive_a_successor_that_fails(guard: Start, program: Program) -> None:
    running = guard(program=str(program.path), heir="ends")
    control = running.ready()
    program.take_away()
    running.process.send_signal(signal.SIGHUP)
    running.says("reload-failed")
    program.put()
    running.process.send_signal(signal.SIGHUP)
    assert _events(running) == ["guard.control-not-started"]
    assert running.says("reload-failed") == "the new process ended with status 3"
    os.kill(control, signal.SIGKILL)
    assert _events(running) == ["guard.control-not-started", "guard.control-ended"]


def test_notes_told_to_a_successor_that_takes_over_are_told_once(guard: Start, program: Program) -> None:
    running = guard(program=str(program.path), heir="acts")
    running.ready()
    program.take_away()
    running.process.send_signal(signal.SIGHUP)
    running.says("reload-failed")
    program.put()
    running.process.send_signal(signal.SIGHUP)
    assert _events(running) == ["guard.control-not-started"]
    os.kill(running.ready(), signal.SIGKILL)
    assert _events(running) == ["guard.control-ended"]
