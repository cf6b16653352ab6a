"""`status --watch` and `history` as they are typed: a real command, a node that is a thread, a real terminal."""

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.console.test_elections_text import CHANGE, document

ROOT = Path(__file__).parents[2]


class Node:
    """Answers at an admin socket as a node does; `answers` by command's name."""

    def __init__(self, folder, answers):
        self.answers = answers
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listening.bind(str(folder / "admin.sock"))
        self.listening.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                end, _ = self.listening.accept()
            except OSError:
                return
            with end:
                line = end.makefile().readline().strip()
                request = json.loads(line) if line.startswith("{") else {"command": line}
                end.sendall(json.dumps(self.answers[request["command"]]).encode() + b"\n")


@pytest.fixture
def file(tmp_path):
    """A configuration whose node keeps its things in `tmp_path`."""
    text = (ROOT / "haproxy-like-config" / "minimal.cfg").read_text()
    path = tmp_path / "gateway.cfg"
    path.write_text(text.replace("/var/lib/condor-gateway", str(tmp_path)))
    return path


def command(*arguments):
    return [sys.executable, "-m", "gateway", *map(str, arguments)]


def run(*arguments):
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=30)


def lines_of(*changes):
    return "".join(json.dumps(change) + "\n" for change in changes)


STORED = {
    "event": "leader-changed",
    "election": "managers",
    "kind": "matchmaker",
    "through": 9,
    **{key: value for key, value in CHANGE.items() if key != "at"},
    "at": 1_795_449_731.2,
}


def test_the_history_of_a_node_that_does_not_run_is_read_from_its_file(tmp_path, file):
    said = run("history", "-f", file)
    assert (said.returncode, said.stdout) == (1, "")
    assert "is it running on this host?" in said.stderr
    later = {**STORED, "seq": 3, "gap_ms": 150}
    (tmp_path / "history.jsonl").write_text(
        lines_of(
            {**STORED, "seq": 3, "gap_ms": None}, {"seq": 4, "event": "fit"}, later, {**STORED, "seq": 5, "term": 6}
        )
    )
    said = run("history", "-f", file, "--limit", "1000", "--json")
    assert [(one["seq"], one["gap_ms"]) for one in json.loads(said.stdout)["changes"]] == [(3, 150), (5, 143)]
    assert "150 ms" in run("history", "-f", file, "--limit", "2").stdout
    assert run("history", "-f", file, "--limit", "0").returncode == 2


def test_the_words_of_all_nodes_are_one_history(tmp_path, file):
    own = {**STORED, "seq": 3, "gap_ms": None}
    Node(
        tmp_path,
        {
            "history": {"changes": [own]},
            "peers": {"gw1": {"changes": [{**STORED, "seq": 8}]}, "cm2": {"error": "no connection"}},
            "status": document(),
        },
    )
    said = run("history", "-f", file, "--all", "--json")
    (change,) = json.loads(said.stdout)["changes"]
    assert (change["gap_ms"], change["seen_by"]) == (143, ["cm1", "gw1"])


def interruptible(*words: str) -> list[str]:
    """A command that Ctrl-C ends, also where these tests run in the background of a shell that keeps it from them."""
    return ["env", "--default-signal=INT", *command(*words)]


def test_a_pipe_gets_one_block_after_the_other_and_no_colours(tmp_path, file):
    Node(tmp_path, {"status": document()})
    watching = subprocess.Popen(
        interruptible("status", "--watch", "-f", file),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen = []
    while sum(line.startswith("cluster campus") for line in seen) < 2:
        seen.append(watching.stdout.readline())
        assert seen[-1], "it goes on until it is told to end"
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=20)
    assert (watching.returncode, errors) == (0, "")
    assert "\x1b" not in "".join(seen)


def test_a_terminal_is_drawn_in_place_and_left_as_it_was(tmp_path, file):
    node = Node(tmp_path, {"status": document()})
    ours, theirs = pty.openpty()
    watching = subprocess.Popen(
        interruptible("status", "--watch", "-f", file),
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "NO_COLOR": ""},
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""

    def read_until(text):
        nonlocal seen
        while text not in seen:
            seen += os.read(ours, 65_536)

    read_until(b"matchmaker pool")
    assert seen.startswith(b"\x1b[?1049h"), "the other screen"
    node.answers["status"] = document(leader="cm2", leader_term=6)
    read_until(b"\x1b[7mcm2\x1b[0m")  # it has just changed
    watching.send_signal(signal.SIGINT)
    read_until(b"\x1b[?25h\x1b[?1049l")
    assert watching.wait(timeout=20) == 0
    os.close(ours)


def test_a_node_that_is_restarted_is_watched_on(tmp_path, file):
    Node(tmp_path, {"status": document()})
    watching = subprocess.Popen(
        interruptible("status", "--watch", "--json", "-f", file), cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert json.loads(watching.stdout.readline())["cluster"] == "campus"
    (tmp_path / "admin.sock").unlink()
    said = {}
    while "error" not in said:
        said = json.loads(watching.stdout.readline())
    assert "is it running on this host?" in said["error"]
    Node(tmp_path, {"status": document()})
    while "cluster" not in said:
        said = json.loads(watching.stdout.readline())
    watching.send_signal(signal.SIGINT)
    assert watching.wait(timeout=20) == 0
