"""Every event that the sources log is explained, and nothing is explained that nobody logs."""

import ast
import json
import re
from pathlib import Path

import pytest

from gateway.cli import run_command_line
from gateway.console.log_events import EVENTS, find

SOURCES = sorted((Path(__file__).parents[2] / "gateway").rglob("*.py"))
METHODS = {"debug", "info", "warning", "error", "critical", "exception"}
# Fields of every event, and of those that a part's own logger binds.
BOUND = {"exc_info", "address", "device", "backend", "forward", "child", "worker"}
# The log module tells of itself.
OWN = {"log.dropped"}


def names_in(argument):
    """Return the names that the first argument of a log call can have; none where another module gives it."""
    match argument:
        case ast.Constant(value=str(name)):
            return [name]
        case ast.IfExp(body=body, orelse=other):
            return names_in(body) + names_in(other)
    return []


def logged():
    """Yield (name, level, fields, where) for each call that logs; fields None where some are not written there."""
    for path in SOURCES:
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args):
                continue
            where, method = f"{path.name}:{call.lineno}", call.func.attr
            if method in METHODS and re.search(r"\blog\b|_log\b|get_logger", ast.unparse(call.func.value)):
                fields = {keyword.arg for keyword in call.keywords}
                level = "error" if method == "exception" else method
                for name in names_in(call.args[0]):
                    yield name, level, fields, where
            elif method == "_note" and isinstance(call.args[0], ast.Constant):  # the guard's, which control logs
                yield call.args[0].value, "warning", {"detail", "ms_ago"}, where
            elif method == "_note":
                for cause in ("frozen", "late", "hung"):
                    yield f"guard.killed-{cause}", "warning", {"detail", "ms_ago"}, where


LOGGED = list(logged())


def test_calls_that_log_are_found():
    assert len(LOGGED) > 100
    assert {"guard.killed-late", "history.given-up", "node.task-failed"} <= {name for name, *_ in LOGGED}


def test_every_event_is_explained():
    unexplained = {name: where for name, _, _, where in LOGGED if name not in EVENTS}
    assert not unexplained, "add them to gateway/console/log_events"


def test_nothing_is_explained_that_nobody_logs():
    assert EVENTS.keys() - {name for name, *_ in LOGGED} - OWN == set()


def test_levels_are_those_of_the_sources():
    for name in EVENTS.keys() - OWN:
        assert {level for one, level, *_ in LOGGED if one == name} == set(EVENTS[name].levels.split()), name


def test_fields_are_those_of_the_sources():
    for name in EVENTS.keys() - OWN:
        said = set(EVENTS[name].fields.split())
        calls = [fields for one, _, fields, _ in LOGGED if one == name]
        assert set().union(*calls) - {None} - BOUND <= said, name
        if not any(None in fields for fields in calls):
            assert said <= set().union(*calls), name


def test_names_have_one_form_and_texts_are_sentences():
    for event in EVENTS.values():
        assert re.fullmatch(r"[a-z]+(\.[a-z_-]+)+", event.name), event.name
        for text in (event.meaning, event.action):
            assert text == "" or re.fullmatch(r"['A-Z].*[.?]", text), (event.name, text)
        if "error" in event.levels or "critical" in event.levels:
            assert event.action, f"{event.name} is an error: what is to be done?"


def test_explain_tells_what_an_event_means_and_what_to_do(capsys):
    assert run_command_line(["explain", "relay.died"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("relay.died (error)\n")
    assert "What to do: " in said
    assert "Fields: status, reason, restart_ms." in said


def test_explain_lists_what_begins_so_and_all_without_a_name(capsys):
    assert run_command_line(["explain", "fence"]) == 0
    assert re.findall(r"^\S+", capsys.readouterr().out, re.MULTILINE) == ["fence.refused", "fence.rebuilt"]
    assert run_command_line(["explain"]) == 0
    listed = re.findall(r"^\S+", capsys.readouterr().out, re.MULTILINE)
    assert listed == list(EVENTS)
    assert run_command_line(["explain", "--json", "log"]) == 0
    assert [one["event"] for one in json.loads(capsys.readouterr().out)] == ["log.dropped", "log.suppressed"]


@pytest.mark.parametrize(("word", "hint"), [("relay.dead", "did you mean 'relay.died'?"), ("zzz", "lists all")])
def test_explain_refuses_what_is_no_event(capsys, word, hint):
    assert run_command_line(["explain", word]) == 1
    assert hint in capsys.readouterr().err
    assert find(word) == []
