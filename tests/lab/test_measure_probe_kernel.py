"""The probe on a real network: what it counts as an answer, and what it leaves behind."""

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.lab.measure import probe
from tests.support import netns

pytestmark = pytest.mark.kernel


@pytest.fixture
def segment() -> Iterator[netns.Segment]:
    reason = netns.usable()
    if reason is not None:
        pytest.skip(reason)
    with netns.Segment("cgprobe") as made:
        yield made


def listen(seconds_open: float, seconds_closed: float) -> int:
    """Listen, close, listen again; return how many connections a program behind it would have seen."""
    seen = 0
    for seconds, after in ((seconds_open, seconds_closed), (seconds_open, 0.0)):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("10.9.0.2", 9618))
            listener.listen(64)
            listener.settimeout(seconds)
            try:
                listener.accept()
                seen += 1
            except TimeoutError:
                pass
        time.sleep(after)
    return seen


def run_probe(path: str) -> None:
    probe.Probe("10.9.0.2", "9618", netns.DEVICE, path).run()


def probe_for(host: netns.Host, path: Path, seconds: float) -> str:
    child = host.start(run_probe, str(path))
    time.sleep(seconds)
    child.signal(signal.SIGTERM)
    child.result()
    return path.read_text()


def test_closed_port_of_a_living_host_is_a_blackout_and_no_program_is_woken(segment, tmp_path):
    client, server = segment.host("client", "10.9.0.1/24"), segment.host("server", "10.9.0.2/24")
    listener = server.start(listen, 1.0, 0.4)
    text = probe_for(client, tmp_path / "probe", 2.0)
    assert 300 < probe.blackout_ms(text, 0.0, time.time()) < 1_000
    assert listener.result() == 0


def test_second_owner_of_an_address_is_seen_while_it_answers(segment, tmp_path):
    client, server = segment.host("client", "10.9.0.1/24"), segment.host("server", "10.9.0.2/24")
    text = probe_for(client, tmp_path / "one", 0.5)
    assert probe.two_owner_ms(text, 0.0, time.time()) == 0.0
    segment.host("stranger", "10.9.0.2/24")
    text = probe_for(client, tmp_path / "two", 1.0)
    assert probe.two_owner_ms(text, 0.0, time.time()) > 200
    assert {mac for macs in probe.read(text)[2].values() for mac in macs} == {
        server.mac,
        segment.hosts["stranger"].mac,
    }
