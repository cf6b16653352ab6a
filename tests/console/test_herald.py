"""The herald, as a process of its own: in order, once, with a deadline, and with as few rights as it is given."""

import json
import os
import pathlib
import pwd
import signal
import socket
import stat
import subprocess
import sys
import time

import msgspec
import pytest

from gateway.config import load
from gateway.console.children import make_children
from gateway.console.herald import Charge, environment_of, line_of
from gateway.console.herald_command import SAID_BYTES_MAX, run_command
from gateway.control.commands import Commands
from gateway.lab.cluster import gateway_config
from gateway.lab.topology import Topology

ROOT = os.geteuid() == 0
ME = "nobody" if ROOT else pwd.getpwuid(os.geteuid()).pw_name
CHANGED = {
    "event": "leader-changed",
    "election": "pool-vip",
    "kind": "address",
    "term": 8,
    "from": "gw1",
    "to": "gw2",
    "cause": "died",
    "detail": "its control process has ended, as its guard says",
    "gap_ms": None,
    "phases": {"elected_ms": 4},
    "seq": 17,
    "at": 1763851200.1,
    "node": "gw2",
}


class Node:
    """The node's end of a herald that runs, and its lines of log."""

    def __init__(self, tmp_path, *commands, fifo="", timeout_ms=5_000, since=0):
        ours, theirs = socket.socketpair()
        charge = Charge(
            cluster="campus",
            node="gw2",
            state=str(tmp_path / "state" / "herald"),
            commands=commands,
            fifo=fifo,
            user=ME,
            timeout_ms=timeout_ms,
            since=since,
        )
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.console.herald", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as under control
            )
        with self.process.stdin as given:
            given.write(msgspec.json.encode(charge))
        self.process.stdin = None
        ours.settimeout(20)
        self.end = ours
        self.asked = json.loads(ours.makefile("rb").readline())

    def tell(self, *events):
        for event in events:
            self.end.sendall(json.dumps(event).encode() + b"\n")

    def finish(self):
        """Let the herald end; return what it logged."""
        self.end.close()
        printed, _ = self.process.communicate(timeout=20)
        assert self.process.returncode == 0
        return [json.loads(line) for line in printed.splitlines()]


@pytest.fixture
def book(tmp_path):
    """A file that the commands' user may write to."""
    path = tmp_path / "book"
    path.touch()
    path.chmod(0o666)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o011)
    return path


def lives(pid):
    """Tell whether a process runs; one that has ended and is not collected yet does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def writes(book, text):
    return ("/bin/sh", "-c", f'echo "{text}" >> {book}')


def numbered(seq, **facts):
    return CHANGED | {"seq": seq} | facts


def test_commands_are_told_every_event_in_its_turn(tmp_path, book):
    node = Node(
        tmp_path,
        (*writes(book, "one $GATEWAY_SEQ $1"), "sh", "an argument; no shell sees it"),
        ("/bin/sh", "-c", f"sleep 0.1; cat >> {book}"),
    )
    assert node.asked == {"command": "events", "after": 0}
    node.tell(numbered(17), {"event": "phase", "seq": 18}, numbered(19))
    logged = node.finish()
    lines = book.read_text().splitlines()
    assert [lines[0], lines[2]] == ["one 17 an argument; no shell sees it", "one 19 an argument; no shell sees it"]
    assert [json.loads(lines[1]), json.loads(lines[3])] == [numbered(17), numbered(19)]
    assert [entry["event"] for entry in logged] == ["notify.told"] * 4


def test_what_a_command_is_given_is_not_on_the_herald_s_command_line():
    """Every user of the host sees that, for as long as the node runs."""
    words = "cluster lab\n    notify command /usr/bin/curl -H 'Authorization: hunter2' https://pager.example/\n"
    text = gateway_config(Topology()).replace("cluster lab\n", words)
    settings = load(text, "gateway.cfg", {}).require()
    (herald,) = make_children(settings, settings.peers[0], Commands(), 0)
    assert b"hunter2" in herald._charge
    assert not any("hunter2" in word for word in herald._argv)


def test_a_herald_that_comes_back_goes_on_where_it_was(tmp_path, book):
    node = Node(tmp_path, writes(book, "told $GATEWAY_SEQ"), since=5)
    assert node.asked["after"] == 5, "what happened since the node has started"
    node.tell(numbered(17))
    node.finish()
    node = Node(tmp_path, writes(book, "told $GATEWAY_SEQ"), since=5)
    assert node.asked["after"] == 17
    node.tell(numbered(18))
    node.finish()
    assert book.read_text().splitlines() == ["told 17", "told 18"]


def test_a_herald_that_is_killed_between_two_commands_repeats_neither(tmp_path, book):
    node = Node(tmp_path, writes(book, "first"), ("/bin/sh", "-c", f"test -e {tmp_path}/go || kill -9 $PPID"))
    node.tell(numbered(17))
    node.process.wait(timeout=20)
    node.end.close()
    (tmp_path / "go").touch()
    node = Node(tmp_path, writes(book, "first"), writes(book, "second"))
    assert node.asked["after"] == 0, "it has not been told to all"
    node.tell(numbered(17))
    node.finish()
    assert book.read_text().splitlines() == ["first", "second"]


def test_two_heralds_never_tell_at_once(tmp_path, book):
    old = Node(tmp_path, ("/bin/sh", "-c", f"sleep 0.5; echo old >> {book}"))
    old.tell(numbered(17))
    time.sleep(0.2)  # it is in the middle of it
    old.end.close()
    new = Node(tmp_path, writes(book, "new"))  # has asked, so it has the file
    assert new.asked["after"] == 17
    new.tell(numbered(18))
    new.finish()
    old.process.communicate(timeout=20)
    assert book.read_text().splitlines() == ["old", "new"]


def test_a_service_manager_that_ends_everything_at_once_does_not_silence_the_last_event(tmp_path, book):
    node = Node(tmp_path, ("/bin/sh", "-c", f"sleep 0.3; grep SigIgn /proc/self/status >> {book}"))
    node.tell(numbered(17))
    node.process.send_signal(signal.SIGTERM)
    node.finish()
    label, mask = book.read_text().split()
    named = int(mask, 16) & 0x7FFF_FFFF  # 32 and above are the C library's and the machine's own
    assert (label, named) == ("SigIgn:", 0), "a command begins with no signal ignored"


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path, book):
    node = Node(tmp_path, ("/bin/sh", "-c", f"echo $$ > {book}; sleep 60 & echo $! >> {book}; wait"), timeout_ms=500)
    node.tell(numbered(17))
    (entry,) = node.finish()
    assert (entry["event"], entry["reason"]) == ("notify.failed", "killed after 500 ms")
    pids = book.read_text().split()
    assert len(pids) == 2
    until = time.monotonic() + 10
    while (left := [pid for pid in pids if lives(pid)]) and time.monotonic() < until:
        time.sleep(0.02)
    assert left == []


@pytest.mark.skipif(not ROOT, reason="only root has rights to drop")
def test_commands_have_the_rights_of_their_user_and_a_plain_environment(tmp_path, book):
    node = Node(tmp_path, ("/bin/sh", "-c", f"id -un >> {book}; id -Gn >> {book}; env >> {book}"))
    node.tell(CHANGED)
    node.finish()
    user, groups, *environment = book.read_text().splitlines()
    assert (user, groups) == ("nobody", "nogroup")
    names = {line.partition("=")[0] for line in environment}
    assert {name for name in names if not name.startswith("GATEWAY_")} <= {
        "PATH",
        "LANG",
        "PWD",
        "SHLVL",
        "_",
        "OLDPWD",
    }
    assert "GATEWAY_CLUSTER=campus" in environment


def test_a_pipe_gets_a_line_for_each_event_and_nobody_need_read_it(tmp_path):
    path = tmp_path / "notify"
    node = Node(tmp_path, fifo=str(path))
    assert stat.S_ISFIFO(path.stat().st_mode)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    node.tell(CHANGED, {"event": "peer-lost", "peer": "cm2", "seq": 18, "at": 1.0, "node": "gw2"})
    node.finish()
    assert os.read(reader, 4096).decode().splitlines() == [
        'INSTANCE "pool-vip" MASTER 8',
        'EVENT "peer-lost" peer="cm2"',
    ]
    os.close(reader)
    node = Node(tmp_path, fifo=str(path))
    node.tell(*(numbered(seq) for seq in range(20, 4_000)))  # more than a pipe holds
    logged = node.finish()
    assert {entry["event"] for entry in logged} <= {"notify.fifo-full", "log.suppressed"}
    assert logged


def test_what_is_no_pipe_is_left_alone_and_commands_run_all_the_same(tmp_path, book):
    path = tmp_path / "precious"
    path.write_text("data")
    node = Node(tmp_path, writes(book, "told"), fifo=str(path))
    node.tell(CHANGED)
    logged = node.finish()
    assert path.read_text() == "data"
    assert logged[0]["event"] == "notify.no-fifo"
    assert "is no named pipe: remove it" in logged[0]["reason"]
    assert book.read_text() == "told\n"


def test_output_is_bounded_and_what_stays_behind_is_not_waited_for():
    outcome = run_command(("/bin/sh", "-c", "yes | head -c 1000000; sleep 60 & exit 3"), {"PATH": "/bin"}, "{}", 20_000)
    assert outcome.failure == "exit status 3"
    assert len(outcome.said) == SAID_BYTES_MAX - 1, "the last line end is stripped"


def test_a_command_that_is_not_there_is_said():
    assert run_command(("/nonexistent",), {}, "{}", 100).failure == "could not be started: No such file or directory"


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"event": "leader-lost", "election": "vip", "from": "gw2", "term": 3}, 'INSTANCE "vip" BACKUP 3'),
        ({"event": "unfit", "election": "vip", "reason": "link eth1 is down"}, 'INSTANCE "vip" FAULT 0'),
        ({"event": "leader-lost", "election": "vip", "from": "gw1"}, 'EVENT "leader-lost" election="vip" from="gw1"'),
        ({"event": "paused", "reason": "two\nlines"}, 'EVENT "paused" reason="two\\nlines"'),
    ],
)
def test_a_line_is_keepalived_s_where_it_is_about_this_node(event, line):
    assert line_of({"node": "gw2", "seq": 1, "at": 1.0, **event}) == line


def test_facts_that_are_not_known_are_not_in_the_environment():
    charge = Charge(cluster="campus", node="gw2", state="", commands=(), fifo="", user="", timeout_ms=1)
    facts = environment_of(CHANGED, charge)
    assert facts["GATEWAY_STATE"] == "MASTER"
    assert facts["GATEWAY_FROM"] == "gw1"
    assert {"GATEWAY_GAP_MS", "GATEWAY_PHASES"} & facts.keys() == set()
