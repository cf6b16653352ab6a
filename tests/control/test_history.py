"""The history: kept over restarts, torn lines and full disks; a stream that says what it had to drop."""

import threading
from pathlib import Path

import pytest
import trio

from gateway.control import history as module
from gateway.control.commands import CommandRefused
from gateway.control.history import CHANGES_AT_HAND, EVENTS_AT_HAND, History
from gateway.control.history_file import HistoryFile, trimmed
from gateway.core.actions import Cause, FollowLeader, StopServing
from gateway.core.events import MessageReceived, StandingChanged
from gateway.wire.messages import ON_REQUEST, Resignation, Standing


def make(folder: Path) -> History:
    return History(folder / "history.jsonl", "me", {"vip": "address", "pool": "matchmaker"}, lambda peer: None)


async def loaded(folder: Path) -> History:
    history = make(folder)
    await history.load()
    return history


async def written(history: History) -> None:
    """Have everything written, as at the end of the process."""
    async with trio.open_nursery() as nursery:
        await nursery.start(history.run)
        nursery.cancel_scope.cancel()


async def take(history: History, after: int, count: int) -> list[dict]:
    found: list[dict] = []
    with trio.fail_after(5):
        async for event in history.events(after):
            found.append(event)
            if len(found) == count:
                return found
    raise AssertionError


async def test_a_change_is_there_again_after_a_restart_with_its_phases(tmp_path):
    history = await loaded(tmp_path)
    history.followed(FollowLeader("vip", "gw1", 7))
    history.took(MessageReceived("gw1", Resignation("vip", 7, f"{ON_REQUEST}: maintenance", "me")))
    history.followed(FollowLeader("vip", None, 7, planned=True))
    history.followed(FollowLeader("vip", "me", 8))
    history.phase("vip", 8, "announced_ms")
    before = history.changes()
    await written(history)
    again = await loaded(tmp_path)
    assert again.changes() == before
    change = again.last("vip")
    assert change is not None
    assert (change["from"], change["to"], change["cause"], change["detail"]) == (
        "gw1",
        "me",
        "requested",
        "maintenance",
    )
    assert change["phases"].keys() == {"lost_ms", "noticed_ms", "elected_ms", "announced_ms"}
    assert change["gap_ms"] is not None


async def test_numbers_go_on_where_they_were_also_those_of_phases_that_are_no_lines(tmp_path):
    history = await loaded(tmp_path)
    history.followed(FollowLeader("pool", "me", 7))
    history.phase("pool", 7, "negotiator_ms")
    await written(history)
    assert (await loaded(tmp_path)).seq == history.seq == 3


async def test_a_leader_that_went_on_over_a_restart_is_no_change(tmp_path):
    history = await loaded(tmp_path)
    history.followed(FollowLeader("vip", "gw1", 7))
    await written(history)
    again = await loaded(tmp_path)
    again.followed(FollowLeader("vip", "gw1", 7))
    assert len(again.changes()) == 1
    again.followed(FollowLeader("vip", None, 7))
    assert [event["event"] for event in await take(again, history.seq, 1)] == ["leader-lost"], "its end is seen"


async def test_what_a_predecessor_adds_at_its_end_is_taken_up(tmp_path):
    old, new = await loaded(tmp_path), await loaded(tmp_path)
    old.followed(FollowLeader("vip", "gw1", 7))
    await written(old)
    await new.load()
    assert new.changes() == old.changes()
    assert new.seq == old.seq


async def test_numbers_go_on_after_all_that_a_predecessor_has_told_also_what_its_disk_refused(tmp_path):
    old, new = await loaded(tmp_path), await loaded(tmp_path)
    old.tell("paused")
    await new.take_up(old.seq)
    new.tell("resumed")
    assert new.seq == old.seq + 1, "who has read the first must not miss the second for its number"


async def test_a_disk_that_hangs_at_a_reload_holds_up_nobody(monkeypatch, tmp_path):
    history, goes_on = await loaded(tmp_path), threading.Event()
    read = HistoryFile.read

    def hang(self):
        goes_on.wait(20)
        return read(self)

    with monkeypatch.context() as patched:
        patched.setattr(HistoryFile, "read", hang)
        try:
            with trio.fail_after(5):
                await history.take_up(17)
        finally:
            goes_on.set()
    assert history.seq == 17


async def test_a_torn_line_costs_itself_alone(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_bytes(b'{"seq":1,"event":"fit","at":1}\n\x00\x00garbage\n[]\n{"seq":2,"event":"unfit","at"')
    history = await loaded(tmp_path)
    assert history.seq == 1
    history.tell("paused")
    await written(history)
    assert b'"at"\n{"seq":2,"event":"paused"' in path.read_bytes(), "what is written next begins a line of its own"
    assert (await loaded(tmp_path)).seq == 2


async def test_a_change_of_another_version_is_passed_over(tmp_path):
    (tmp_path / "history.jsonl").write_bytes(b'{"seq":4,"event":"leader-changed","election":3}\n')
    history = await loaded(tmp_path)
    assert (history.seq, history.changes()) == (4, [])


async def test_a_full_disk_costs_the_entry_and_is_counted(monkeypatch, tmp_path):
    history = await loaded(tmp_path)

    def full(self, lines):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(HistoryFile, "append", full)
        history.followed(FollowLeader("vip", "gw1", 7))
        await written(history)
    assert history.status()["unwritten_total"] == 1
    assert len(history.changes()) == 1, "it is still told, as long as the process lives"
    history.tell("paused")
    await written(history)
    assert (await loaded(tmp_path)).seq == 3


async def test_the_writer_writes_while_the_node_runs(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "WRITE_EVERY_S", 0.0)
    history = await loaded(tmp_path)
    async with trio.open_nursery() as nursery:
        await nursery.start(history.run)
        history.tell("paused")
        with trio.fail_after(5):
            while not (tmp_path / "history.jsonl").exists():  # noqa: ASYNC110 (a file is no event)
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


def test_a_file_that_has_grown_long_keeps_the_newest(monkeypatch, tmp_path):
    monkeypatch.setattr("gateway.control.history_file.LINES_MAX", 10)
    file = HistoryFile(tmp_path / "history.jsonl")
    file.append([b'{"seq":%d,"event":"fit"}' % seq for seq in range(1, 2_001)])
    file.trim()
    kept = HistoryFile(tmp_path / "history.jsonl").read()
    assert [line["seq"] for line in kept] == list(range(1_001, 2_001))
    assert file.read() == [], "what this process knows is not read again"
    file.append([b'{"seq":2001,"event":"fit"}'])
    assert len(HistoryFile(tmp_path / "history.jsonl").read()) == 1_001


@pytest.mark.parametrize("more", [1, 3_000])
def test_what_another_process_has_trimmed_is_read_from_its_beginning(monkeypatch, tmp_path, more):
    """Also where it has grown beyond its old length since."""
    monkeypatch.setattr("gateway.control.history_file.LINES_MAX", 10)
    path = tmp_path / "history.jsonl"
    old, new = HistoryFile(path), HistoryFile(path)
    old.append([b'{"seq":%d,"event":"fit"}' % seq for seq in range(1, 2_001)])
    assert len(new.read()) == 2_000
    old.trim()
    old.append([b'{"seq":%d,"event":"unfit"}' % seq for seq in range(2_001, 2_001 + more)])
    assert [line["seq"] for line in new.read()] == list(range(1_001, 2_001 + more))
    assert new.read() == []


def test_of_a_change_that_was_written_again_the_last_line_is_kept():
    lines = [
        b'{"seq":1,"event":"leader-changed","gap_ms":null}',
        b'{"seq":2,"event":"fit"}',
        b'{"seq":3,"event":"unfit"}',
        b'{"seq":1,"event":"leader-changed","gap_ms":30}',
        b'{"seq":4,"torn',
    ]
    assert trimmed(lines, changes_max=5, others_max=1) == [lines[2], lines[3]]


async def test_a_reader_gets_what_came_after_the_number_that_it_names(tmp_path):
    history = await loaded(tmp_path)
    for name in ("a", "b", "c"):
        history.tell(name)
    assert [event["event"] for event in await take(history, 2, 2)] == ["b", "c"]


async def test_a_reader_without_a_number_gets_new_events_only(tmp_path):
    history = await loaded(tmp_path)
    history.tell("old")
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def tell():
            await trio.testing.wait_all_tasks_blocked()
            history.tell("new")

        assert [event["event"] for event in await take(history, 0, 1)] == ["new"]


async def test_a_reader_that_knows_more_than_was_kept_gets_what_comes(tmp_path):
    history = await loaded(tmp_path)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def tell():
            await trio.testing.wait_all_tasks_blocked()
            history.tell("new")

        assert [event["event"] for event in await take(history, 1_000, 1)] == ["new"]


async def test_a_slow_reader_is_told_how_much_it_has_missed(tmp_path):
    history = await loaded(tmp_path)
    history.tell("first")
    stream = history.events(0)
    history.tell("second")  # not waited for yet: the stream has not begun
    history.tell("third")
    stream = history.events(2)
    assert (await anext(stream))["event"] == "second"
    for _ in range(EVENTS_AT_HAND + 9):
        history.tell("more")
    # The third has gone, and nine of the others.
    dropped = await anext(stream)
    assert (dropped["event"], dropped["count"]) == ("dropped", 10)
    assert (await anext(stream))["seq"] == 14
    await stream.aclose()


async def test_a_reader_of_an_old_file_does_not_spin_where_the_last_events_were_not_kept(tmp_path):
    history = await loaded(tmp_path)
    history.followed(FollowLeader("vip", "gw1", 1))
    history.followed(FollowLeader("vip", None, 1))
    history.followed(FollowLeader("vip", "me", 2))
    history.phase("vip", 2, "serving_ms")  # it is in no file as an event
    await written(history)
    again = await loaded(tmp_path)
    with trio.move_on_after(0.05) as waited:
        await take(again, 1, 10)
    assert waited.cancelled_caught


async def test_fitness_is_told_when_it_changes_and_not_at_the_start(tmp_path):
    history = await loaded(tmp_path)

    def standing(fit, reason=""):
        history.took(StandingChanged(Standing("vip", fit, True, 0, 0, ""), reason))

    standing(False, "the relay is not ready")
    standing(True)
    standing(True)
    standing(False, "link eth1 is down")
    events = [(event["event"], event["reason"]) for event in history._events]
    assert events == [("fit", ""), ("unfit", "link eth1 is down")]


async def test_why_this_node_stopped_is_its_own_word(tmp_path):
    history = await loaded(tmp_path)
    history.followed(FollowLeader("vip", "me", 1))
    history.did(StopServing("vip", 1, Cause.SUSPENDED, "the machine slept for 900 ms", True))
    history.followed(FollowLeader("vip", None, 1))
    assert history._events[-1]["cause"] == "suspended"


async def test_no_more_changes_are_at_hand_than_an_answer_may_have(tmp_path):
    history = await loaded(tmp_path)
    for term in range(1, CHANGES_AT_HAND + 50):
        history.followed(FollowLeader("vip" if term % 2 else "pool", "gw1", term))
    assert len(history.changes()) == CHANGES_AT_HAND
    answer = history.answer_history({"command": "history", "limit": 3, "election": "pool"})
    assert [change["term"] for change in answer["changes"]] == [244, 246, 248]


@pytest.mark.parametrize("request_", [{"limit": -1}, {"limit": "many"}, {"election": "nothing"}])
async def test_a_request_that_makes_no_sense_is_refused_with_the_fix(tmp_path, request_):
    with pytest.raises(CommandRefused):
        (await loaded(tmp_path)).answer_history({"command": "history", **request_})
