"""The load generator counts what arrives, and believes no byte that it has not checked. On loopback alone."""

import contextlib
import json
import socket
import subprocess
import threading
import time

import pytest

from tests.bench.plane import loadgen, report
from tests.bench.plane.loads import chosen, loads

NAME = 7
PATIENCE_S = 20


@pytest.fixture(scope="module")
def binary():
    try:
        return loadgen.binary()
    except loadgen.NoCompilerError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def server(binary):
    """The port of a server."""
    with subprocess.Popen([binary, "serve", "127.0.0.1", "0", str(NAME)], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield json.loads(process.stdout.readline())["port"]
        finally:
            process.kill()


@pytest.fixture
def load(binary):
    """Run one load; return its answer."""

    def run(command, port, *numbers):
        argv = [binary, command, "127.0.0.1", str(port), *map(str, numbers)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
        return json.loads(done.stdout)

    return run


def spoil(chunk):
    """Change one bit in the middle, where no head is."""
    changed = bytearray(chunk)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


@contextlib.contextmanager
def forwarder(port, *, up=bytes, down=bytes):
    """Carry one connection to `port`, each chunk changed by `up` or `down`; give the port to connect to."""

    def copy(source, target, change):
        with contextlib.suppress(OSError):
            while chunk := source.recv(65_536):
                target.sendall(change(chunk) if len(chunk) > 1_000 else chunk)
            target.shutdown(socket.SHUT_WR)

    def serve():
        client, _ = listening.accept()
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            other = threading.Thread(target=copy, args=(server, client, down))
            other.start()
            copy(client, server, up)
            other.join(PATIENCE_S)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(PATIENCE_S)


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("streams", [1, 8])
def test_bulk_moves_the_bytes_that_were_asked_for(load, server, direction, streams):
    found = load(direction, server, streams, 5, 3_000_001)
    assert found["bytes"] == streams * 3_000_001
    assert (found["broken"], found["corrupt"]) == (0, 0)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_bulk_ends_when_its_time_is_over(load, server, direction):
    found = load(direction, server, 2, 0.1)
    assert found["bytes"] > 0
    assert (found["broken"], found["corrupt"]) == (0, 0)
    assert found["gbit"] == pytest.approx(found["bytes"] * 8e-9 / found["seconds"], rel=0.01)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_one_wrong_bit_of_bulk_is_seen(load, server, direction):
    with forwarder(server, **{direction: spoil}) as port:
        assert load(direction, port, 1, 5, 1_000_000)["corrupt"] > 0


@pytest.mark.parametrize("direction", ["up", "down"])
def test_bytes_that_are_left_out_are_seen(load, server, direction):
    with forwarder(server, **{direction: lambda chunk: chunk[:-1]}) as port:
        found = load(direction, port, 1, 5, 1_000_000)
        assert found["broken"] + found["corrupt"] > 0


def test_questions_are_answered_in_full(load, server):
    small, big = load("rate", server, 2_048, 4_096, 4, 0.2), load("rate", server, 4_096, 65_536, 4, 0.2)
    for found in (small, big):
        assert found["done"] > 0
        assert (found["failed"], found["corrupt"]) == (0, 0)
        assert found["p50_us"] <= found["p99_us"] <= found["max_us"]
    assert load("latency", server, 64, 0.1)["corrupt"] == 0


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_wrong_answer_or_question_is_seen(load, server, direction):
    with forwarder(server, **{direction: spoil}) as port:
        # The forwarder takes one connection; the next one waits until the time is over.
        assert load("rate", port, 2_048, 4_096, 1, 0.3)["corrupt"] > 0


def test_a_connection_that_is_closed_unanswered_is_a_failure(load):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse():
            with contextlib.suppress(OSError):
                while True:
                    listening.accept()[0].close()

        threading.Thread(target=refuse, daemon=True).start()
        found = load("rate", listening.getsockname()[1], 2_048, 4_096, 2, 0.1)
        listening.shutdown(socket.SHUT_RDWR)
    assert found["failed"] > 0
    assert found["done"] == 0


@pytest.mark.parametrize("size", [1_024, 3_072])
def test_datagrams_are_counted_where_they_arrive(load, server, size):
    found = load("udp", server, size, 4, 2_000, 0.2, "127.0.0.1", server)
    assert found["received"] == found["sent"] > 0
    assert (found["lost"], found["corrupt"], found["repeated"]) == (0, 0, 0)


def test_lost_repeated_and_wrong_datagrams_are_told_apart(load, server):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
        port.bind(("127.0.0.1", 0))
        port.settimeout(PATIENCE_S)

        def forward():
            with contextlib.suppress(OSError):
                for number in range(1_000_000):
                    datagram = port.recv(65_536)
                    copies = {0: [], 1: [datagram, datagram], 2: [spoil(datagram)]}
                    for copy in copies.get(number % 10, [datagram]):
                        port.sendto(copy, ("127.0.0.1", server))

        threading.Thread(target=forward, daemon=True).start()
        found = load("udp", port.getsockname()[1], 1_024, 2, 1_000, 0.3, "127.0.0.1", server)
    assert found["sent"] - found["received"] == pytest.approx(found["sent"] / 10, abs=2)
    assert found["lost"] == pytest.approx(0.1, abs=0.02)
    assert found["repeated"] == pytest.approx(found["sent"] / 10, abs=2)
    assert found["corrupt"] == pytest.approx(found["sent"] / 10, abs=2)


@contextlib.contextmanager
def idle(binary, port, count):
    """Idle connections; give a function that says a word and returns the answer."""
    argv = [binary, "idle", "127.0.0.1", str(port), str(count)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def tell(word=""):
            if word:
                process.stdin.write(word + "\n")
                process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield tell
        process.stdin.close()


def test_idle_connections_notice_their_end_and_how(binary):
    server = subprocess.Popen([binary, "serve", "127.0.0.1", "0", "1"], stdout=subprocess.PIPE, text=True)
    with server, idle(binary, json.loads(server.stdout.readline())["port"], 50) as tell:
        assert tell()["open"] == 50
        assert tell("report") == {"open": 50, "reset": 0, "finished": 0, "first_ns": 0, "last_ns": 0}
        server.kill()
        server.wait()
        for _ in range(1_000):
            found = tell("report")
            if not found["open"]:
                break
            time.sleep(0.01)
        assert found["open"] == 0
        assert found["last_ns"] >= found["first_ns"]


def test_a_probe_says_who_answered(binary, server):
    argv = [binary, "probe", "127.0.0.1", str(server), "0.05", "1000"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    _head, *found = map(json.loads, done.stdout.splitlines())
    assert found
    assert all(begun < ended and who == NAME for begun, ended, who in found)


def test_what_was_wrong_is_said():
    rate, udp = chosen(["rate4k"], 8)[0], chosen(["udp1k"], 8)[0]
    assert rate.complaint({"done": 5, "failed": 0, "corrupt": 0}) == ""
    assert rate.complaint({"done": 5, "failed": 2, "corrupt": 1}) == "1 corrupt, 2 failed"
    assert rate.complaint({"done": 0, "failed": 0, "corrupt": 0}) == "nothing moved"
    assert udp.complaint({"sent": 9, "received": 0, "lost": 1.0, "corrupt": 0}) == ""


def test_a_group_names_its_loads_and_an_unknown_one_is_refused():
    assert [load.name for load in chosen(["bulk"], 8)] == ["up1", "up8", "down1", "down8"]
    assert [load.name for load in chosen(["rate64k", "latency"], 8)] == ["rate64k", "latency"]
    assert len({load.name for load in loads(8)}) == len(loads(8))
    with pytest.raises(ValueError, match="no load 'bulky': there are bulk, "):
        chosen(["bulky"], 8)


def test_ratios_are_those_of_a_round_and_not_of_the_medians():
    row = {"haproxy": [1.0, 10.0, None], "proxy": [2.0, 30.0, 5.0]}
    assert report.by_round(row, "proxy", "haproxy") == [2.0, 3.0, None]
