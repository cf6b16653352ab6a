"""What the guard says in the name of a control that has died, and what it does before it says it."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guard_harness import Guarded, Peer, alive, wait_until

from gateway.wire.errors import Malformed, Reason
from gateway.wire.heartbeat import decode_untrusted, encode
from gateway.wire.messages import Resignation
from gateway.wire.seal import Keyring, Seal

Start = Callable[..., Guarded]
SLEEP = "/usr/bin/sleep"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([SLEEP, "1000"]) as process:
        yield process
        process.kill()


@pytest.fixture
def hangup_counter() -> Iterator[subprocess.Popen[str]]:
    """Return a process that writes a line for each SIGHUP, as condor_master reads its configuration."""
    program = "import signal\nsignal.signal(1, lambda *_: print('hup', flush=True))\nprint('here', flush=True)\n"
    program += "while True: signal.pause()\n"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        yield process
        process.kill()


def test_letter_of_a_killed_control_is_taken_by_its_peer_once(guard: Start, peer: Peer) -> None:
    keyring = Keyring({1: bytes(32)}, 1)
    names = ("gw1", "gw2")
    mine, theirs = (Seal("pool", keyring, name, name.encode().ljust(16), names) for name in names)
    for _ in range(2):  # until they know each other
        theirs.open_untrusted(mine.hello("gw2"))
        mine.open_untrusted(theirs.hello("gw1"))
    resignation = Resignation("vip", 7, "gone", "gw2")
    letter = mine.seal("gw2", encode(resignation))
    running = guard(wills={"vip": {"letters": [peer.letter(letter)]}})
    os.kill(running.ready(), signal.SIGKILL)
    datagram = peer.receive()
    assert datagram is not None
    opened = theirs.open_untrusted(datagram)
    assert opened.sender == "gw1"
    assert opened.payload is not None
    assert decode_untrusted(opened.payload) == resignation
    with pytest.raises(Malformed) as refused:
        theirs.open_untrusted(datagram)
    assert refused.value.reason is Reason.REPLAYED


def test_letter_of_a_control_that_ends_in_order_is_never_sent(guard: Start, peer: Peer) -> None:
    running = guard(wills={"vip": {"letters": [peer.letter()]}})
    running.ready()
    running.process.terminate()
    assert running.process.wait(10) == 0
    assert peer.receive(within_s=0.1) is None


def test_letters_go_to_ipv6_peers_as_well(guard: Start) -> None:
    import socket

    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as listening:
        try:
            listening.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
        listening.settimeout(20)
        running = guard(wills={"vip": {"letters": [["::1", listening.getsockname()[1], "00"]]}})
        os.kill(running.ready(), signal.SIGKILL)
        assert listening.recv(10) == b"\0"


def test_negotiator_is_dead_and_stays_dead_before_the_letter(
    guard: Start,
    peer: Peer,
    sleeper: subprocess.Popen[bytes],
    hangup_counter: subprocess.Popen[str],
    tmp_path: Path,
) -> None:
    file = tmp_path / "node.config"
    file.write_text("negotiator")
    will = {"letters": [peer.letter()], "kills": [sleeper.pid], "hangups": [hangup_counter.pid]}
    running = guard(wills={"managers": will | {"files": [[str(file), "standby"]], "at_end": True}})
    os.kill(running.ready(), signal.SIGKILL)
    assert peer.receive() == b"resigned"
    assert not alive(sleeper.pid)
    assert file.read_text() == "standby"
    assert hangup_counter.stdout is not None
    assert hangup_counter.stdout.readline() == "hup\n"


def test_negotiator_that_nobody_has_seen_yet_is_found_under_its_master(
    guard: Start, peer: Peer, tmp_path: Path
) -> None:
    master = subprocess.Popen([sys.executable, "-c", f"import subprocess; subprocess.run(['{SLEEP}', '1000'])"])
    with master:
        children = Path(f"/proc/{master.pid}/task/{master.pid}/children")
        assert wait_until(lambda: children.read_text())
        negotiator = int(children.read_text().split()[0])
        assert wait_until(lambda: Path(f"/proc/{negotiator}/exe").readlink() == Path(SLEEP).resolve())
        will = {"letters": [peer.letter()], "offspring": [[master.pid, str(Path(SLEEP).resolve())]]}
        running = guard(wills={"managers": will | {"files": [[str(tmp_path / "a"), ""]], "settle_ms": 100}})
        os.kill(running.ready(), signal.SIGKILL)
        assert peer.receive() == b"resigned"
        assert not alive(negotiator)
        master.kill()


def test_hung_disk_keeps_back_its_own_letter_alone(
    guard: Start, sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    for_address, for_matchmaker = Peer(), Peer()
    with for_address.socket, for_matchmaker.socket:
        os.mkfifo(tmp_path / ".node.config.guard")  # to open it for writing waits for a reader, who never comes
        matchmaker = {"kills": [sleeper.pid], "files": [[str(tmp_path / "node.config"), "standby"]], "at_end": True}
        running = guard(
            wills={
                "managers": matchmaker | {"letters": [for_matchmaker.letter()]},
                "vip": {"letters": [for_address.letter()]},
            },
            once=str(tmp_path / "first"),
        )
        os.kill(running.ready(), signal.SIGKILL)
        assert for_address.receive() == b"resigned"
        assert wait_until(lambda: not alive(sleeper.pid)), "killed, whatever the disk does"
        assert for_matchmaker.receive(within_s=0.5) is None
        running.ready()  # and control is started again


def test_file_that_cannot_be_written_keeps_back_the_letter(guard: Start, peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "missing" / "node.config"
    running = guard(wills={"managers": {"files": [[str(file), ""]], "letters": [peer.letter()]}})
    os.kill(running.ready(), signal.SIGKILL)
    assert peer.receive(within_s=0.5) is None


def test_end_of_the_lease_fences_the_matchmaker_though_control_lives(
    guard: Start, peer: Peer, sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    file = tmp_path / "node.config"
    will = {"kills": [sleeper.pid], "files": [[str(file), "standby"]], "at_end": True, "lease_ms": 300}
    running = guard(wills={"managers": will | {"letters": [peer.letter()]}})
    control = running.ready()
    assert wait_until(lambda: not alive(sleeper.pid))
    assert wait_until(file.exists)
    assert alive(control)
    assert peer.receive(within_s=0.1) is None, "control lives, and speaks for itself"


def test_end_of_the_lease_alone_does_nothing_to_an_address(guard: Start, peer: Peer) -> None:
    running = guard(wills={"vip": {"letters": [peer.letter()], "lease_ms": 50}})
    control = running.ready()
    assert peer.receive(within_s=0.3) is None
    os.kill(control, signal.SIGKILL)
    assert peer.receive() == b"resigned"


@pytest.mark.kernel
def test_the_letter_does_not_wait_for_the_kernel_to_take_packet_sockets_away(guard: Start, peer: Peer) -> None:
    running = guard(packet_sockets=100, wills={"vip": {"letters": [peer.letter()]}})
    control = running.ready()
    held = os.pidfd_open(control)
    os.kill(control, signal.SIGKILL)
    assert peer.receive() == b"resigned"
    dead, _, _ = select.select([held], [], [], 0)
    os.close(held)
    assert not dead, "the sockets take some 10 ms each"


def test_a_control_that_only_closes_its_link_is_killed_before_the_letter(guard: Start, peer: Peer) -> None:
    running = guard(closes_link=True, wills={"vip": {"letters": [peer.letter()]}})
    control = running.ready()
    assert peer.receive() == b"resigned"
    assert not alive(control)
