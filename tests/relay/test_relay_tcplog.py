"""A line for each connection that has ended: what it says, and that it never holds a byte up."""

import json
import re
import threading

import pytest
import trio
from relay_harness import (
    ask_on,
    connect,
    echo,
    how_it_ended,
    listener,
    reset,
    tcp_server,
    wait_until,
)

from gateway.relay import ending, tcplog
from gateway.relay.ending import By, Course, Ending, State
from gateway.relay.messages import Tcplog
from gateway.relay.tcplog import Lines

TEXT = Tcplog(node="gw1", frontend="matchmaker")
LINE = re.compile(
    r"127\.0\.0\.1:(?P<port>\d+) \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d\.\d{3}\] matchmaker pool/(?P<server>\S+) "
    r"(?P<tw>-?\d+)/(?P<tc>-?\d+)/(?P<tt>\d+) (?P<bytes>\d+) (?P<letters>[-A-Za-z]{2}) (?P<counts>\d+/\d+/\d+/\d+/\d+) "
    r"0/(?P<held>\d+)"
)


def ended(**changes):
    said = {
        "client": ("10.0.1.2", 33_313),
        "ended_s": 1_700_000_005.007,
        "frontend": "fnt",
        "backend": "bck",
        "server": "srv1",
        "waited_ms": 0,
        "connect_ms": 0,
        "total_ms": 5_007,
        "bytes_to_client": 212,
        "bytes_to_server": 30,
        "by": By.NOBODY,
        "state": State.OPEN,
        "connections": (0, 0, 0, 0, 3),
        "held": 0,
    }
    return Ending(**(said | changes))


def test_the_line_is_haproxys(monkeypatch):
    monkeypatch.setattr(ending.time, "localtime", ending.time.gmtime)
    assert ending.text(ended()) == (
        "10.0.1.2:33313 [14/Nov/2023:22:13:20.000] fnt bck/srv1 0/0/5007 212 -- 0/0/0/0/3 0/0"
    )
    # held until its time was over: it waited, nobody was connected to
    said = ending.text(ended(by=By.SERVER_TIME, state=State.HELD, server="<NOSRV>", waited_ms=-1, connect_ms=-1))
    assert " bck/<NOSRV> -1/-1/5007 212 sQ " in said


def test_the_event_has_the_line_and_every_field_by_name():
    event = json.loads(ending.event(ended(), "gw1"))
    assert event["line"] == ending.text(ended())
    assert (event["event"], event["node"], event["level"], event["at"]) == (
        "connection.ended",
        "gw1",
        "info",
        1_700_000_005.007,
    )
    assert (event["client"], event["termination"], event["retries"]) == ("10.0.1.2:33313", "--", 3)


def test_times_that_were_not_reached_are_minus_one():
    assert ending.times(Course(began_at=10.0), 10.5) == (-1, -1, 500)
    assert ending.times(Course(began_at=10.0, connecting_at=10.1), 10.5) == (100, -1, 500)
    assert ending.times(Course(began_at=10.0, connecting_at=10.1, opened_at=10.25), 10.5) == (100, 150, 500)


@pytest.fixture
def lines(harness, capfd):
    """Return what the relay's process has written, as far as it is lines of ours."""
    said = []

    def read():
        said.extend(capfd.readouterr().out.splitlines())
        return [LINE.fullmatch(line) for line in said]

    return read


async def wait_for(lines, count):
    await wait_until(lambda: len(lines()) >= count)
    return lines()


async def test_each_connection_has_a_line_that_says_how_it_ended(harness, lines):
    async def serve(stream):
        if (said := await stream.receive_some()) == b"die":
            await stream.send_all(b"dying")
            reset(stream)
        else:
            await stream.send_all(said)
            await stream.receive_some()

    async with tcp_server(serve) as server:
        front = listener(tcplog=TEXT, servers=((f"127.0.0.1:{server}", "cm1"),))
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            assert await ask_on(stream, b"hello") == b"hello"
        (normal,) = await wait_for(lines, 1)
        assert (normal["server"], normal["bytes"], normal["letters"]) == ("cm1", "5", "--")
        assert normal["counts"] == "1/1/1/1/0"
        assert 0 <= int(normal["tw"]) + int(normal["tc"]) <= int(normal["tt"])

        async with await connect(front.port) as stream:
            assert await ask_on(stream, b"die") == b"dying"
            assert await how_it_ended(stream) == "reset"
        stream = await connect(front.port)
        assert await ask_on(stream) == b"?"
        reset(stream)
        await wait_for(lines, 3)
        stream = await connect(front.port)
        assert await ask_on(stream) == b"?"
        await harness.switch(server)
        assert await how_it_ended(stream) == "reset"
        (await connect(front.port)).socket.close()  # without a word
        found = await wait_for(lines, 5)
        assert [each["letters"] for each in found] == ["--", "SD", "CD", "DD", "CR"]
        assert [each["server"] for each in found] == ["cm1", "cm1", "cm1", "cm1", "<NOSRV>"]
        assert [found[-1]["tw"], found[-1]["tc"]] == ["-1", "-1"]


async def test_who_was_held_and_who_was_silent_have_lines_too(harness, lines):
    # A listener for each, for with both bounds in one a machine that stalls lets both be silent, or both be held.
    held = listener(name="holding", tcplog=TEXT, hold_ms=200)
    silent = listener(name="listening", tcplog=TEXT, hello_ms=300)
    await harness.listen(held, silent)
    async with await connect(held.port) as stream:
        await stream.send_all(b"?")
        assert await how_it_ended(stream) == "reset"
    async with await connect(silent.port) as stream:
        assert await how_it_ended(stream) == "reset"
    found = await wait_for(lines, 2)
    assert [each["letters"] for each in found] == ["sQ", "cR"]


async def test_without_the_option_nothing_is_written(harness, lines):
    async with tcp_server(echo) as server:
        front = listener()
        await harness.switch(server)
        await harness.listen(front)
        async with await connect(front.port) as stream:
            assert await ask_on(stream) == b"?"
        await harness.stats_when(lambda stats: stats.connections_now == 0 and stats.connections_total == 1)
        await trio.sleep(3 * tcplog.PAUSE_S)
        assert lines() == []


def test_a_reader_that_takes_nothing_stops_nobody():
    stuck = threading.Event()
    lines = Lines(lambda data: stuck.wait() and len(data))
    for number in range(3 * tcplog.LINES_WAITING_MAX):
        if lines.may_put(number // 500):  # never above the rate
            lines.put(b"line")
    assert tcplog.LINES_WAITING_MAX - tcplog.WRITE_BYTES_MAX // 5 <= lines.dropped_total <= 2 * tcplog.LINES_WAITING_MAX
    stuck.set()


def test_lines_above_the_rate_are_dropped_and_counted():
    lines = Lines(len)
    taken = sum(lines.may_put(7.5) for _ in range(tcplog.LINES_PER_S_MAX + 5))
    assert (taken, lines.dropped_total) == (tcplog.LINES_PER_S_MAX, 5)
    assert lines.may_put(8.0)


def test_lines_are_written_in_whole_and_several_at_a_time():
    written, done = [], threading.Event()

    def write(data):
        written.append(data[:3_000])
        if b"last" in data[:3_000]:
            done.set()
        return min(len(data), 3_000)  # a pipe that is nearly full

    lines = Lines(write)
    for number in range(300):
        lines.put(b"line %03d " % number + bytes(60))
    lines.put(b"last")
    assert done.wait(10)
    assert b"".join(written).splitlines() == [b"line %03d " % number + bytes(60) for number in range(300)] + [b"last"]
    assert len(written) < 30


def test_lines_that_cannot_be_written_are_counted():
    tried = threading.Event()

    def write(data):
        tried.set()
        raise BrokenPipeError

    lines = Lines(write)
    lines.put(b"line")
    assert tried.wait(10)
    lines._thread.join(0.01)
    assert lines.dropped_total == 1
