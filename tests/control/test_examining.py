"""Promises of the look that a node has taken at its host for others: a process of its own, bounded, one at a time."""

import json

import pytest
import trio

from gateway.control import examining
from gateway.control.commands import CommandRefused
from gateway.control.examining import Examining


def script(tmp_path, text):
    program = tmp_path / "doctor"
    program.write_text(f"#!/bin/sh\necho run >> {tmp_path}/runs\n{text}\n")
    program.chmod(0o755)
    return (str(program),)


def runs(tmp_path):
    return len((tmp_path / "runs").read_text().split())


async def test_the_report_of_this_host_is_answered_also_where_it_has_errors(tmp_path):
    looking = Examining("gateway.cfg", "gw1", script(tmp_path, "echo '{\"findings\": []}'; exit 1"))
    assert await looking.answer({}) == {"findings": []}


async def test_it_is_asked_with_the_nodes_own_file_and_name(tmp_path):
    looking = Examining("/etc/x.cfg", "gw1", script(tmp_path, 'printf \'{"said": "%s"}\' "$*"'))
    assert (await looking.answer({}))["said"] == "doctor --json -f /etc/x.cfg --node gw1"


async def test_many_who_ask_at_once_start_one_look(tmp_path, nursery):
    looking = Examining("x", "gw1", script(tmp_path, f"sleep 0.1; echo '{json.dumps({'n': 1})}'"))
    for _ in range(5):
        nursery.start_soon(looking.answer, {})
    assert await looking.answer({}) == {"n": 1}
    assert runs(tmp_path) == 1


async def test_a_look_that_fails_or_hangs_is_a_refusal(tmp_path, monkeypatch):
    with pytest.raises(CommandRefused, match="can't be looked over: no such thing"):
        await Examining("x", "gw1", script(tmp_path, "echo no such thing >&2; exit 1")).answer({})
    with pytest.raises(CommandRefused, match="can't be looked over: No such file"):
        await Examining("x", "gw1", (str(tmp_path / "nothing"),)).answer({})
    monkeypatch.setattr(examining, "LOOK_S_MAX", 0.2)
    with trio.fail_after(5), pytest.raises(CommandRefused, match=r"took longer than 0\.2 s"):
        await Examining("x", "gw1", script(tmp_path, "exec sleep 60")).answer({})
