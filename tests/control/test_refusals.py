"""A node that can't start says why in one sentence, exits with 1, and has changed nothing on the host."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.control.conftest import Cluster
from tests.support.nodes import PYTHON

pytestmark = pytest.mark.kernel


def _snapshot(cluster: Cluster, name: str) -> tuple[str, str, list[str]]:
    host = cluster.segment.hosts[name]
    rules = host.run("nft", "list", "ruleset", check=False).stdout
    return host.ip("-o", "address").stdout, rules, sorted(os.listdir(cluster.folder))


def _refused(cluster: Cluster, name: str, *extra: str, user: int | None = None) -> str:
    """Run a node that must refuse; return the one sentence that it says."""
    before = _snapshot(cluster, name)
    command = ["ip", "netns", "exec", cluster.segment.hosts[name].namespace]
    command += ["setpriv", f"--reuid={user}", "--clear-groups"] if user else []
    done = subprocess.run(
        [*command, *PYTHON, "run", "-f", str(cluster.config(name)), *extra], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1, done.stderr
    assert _snapshot(cluster, name) == before
    # The file's warnings (it has one manager only) come before; the refusal is one line.
    sentences = [line for line in done.stderr.splitlines() if line.startswith("condor-gateway: ")]
    assert done.stderr.splitlines()[-1:] == sentences
    assert not done.stdout
    assert "Traceback" not in done.stderr
    return sentences[0]


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_missing_configuration_file_is_named(cluster: Cluster) -> None:
    cluster.config("gw1").unlink()
    assert f"configuration file '{cluster.config('gw1')}' does not exist" in _refused(cluster, "gw1")


def test_a_missing_key_file_is_named_with_the_command_that_makes_one(cluster: Cluster) -> None:
    (cluster.folder / "cluster.key").unlink()
    sentence = _refused(cluster, "gw1", "--node", "gw1")
    assert "cluster.key' does not exist" in sentence
    assert "condor-gateway keygen" in sentence


def test_a_key_file_that_others_can_read_is_refused(cluster: Cluster) -> None:
    (cluster.folder / "cluster.key").chmod(0o640)
    sentence = _refused(cluster, "gw1", "--node", "gw1")
    assert "open to other users (mode 0640)" in sentence
    assert "chmod 600" in sentence


def test_a_host_that_is_not_in_the_file_is_told_who_is(cluster: Cluster) -> None:
    cluster.config("client").write_text(cluster.config("gw1").read_text())
    sentence = _refused(cluster, "client")
    assert "is none of the peers" in sentence
    assert "'gw1' (10.77.9.1)" in sentence


def test_a_device_that_does_not_exist_is_named(cluster: Cluster) -> None:
    _replace(cluster.config("gw1"), "dev lan0", "dev lan7")
    sentence = _refused(cluster, "gw1", "--node", "gw1")
    assert "lan7" in sentence


def test_an_address_that_a_stranger_answers_is_refused_with_its_mac(cluster: Cluster) -> None:
    stranger = cluster.segment.host("stranger", "10.77.9.100/24")
    sentence = _refused(cluster, "gw1", "--node", "gw1")
    assert "10.77.9.100" in sentence
    assert stranger.mac in sentence


def test_an_address_that_another_holder_answers_is_no_reason_to_refuse(cluster: Cluster) -> None:
    cluster.segment.hosts["gw2"].ip("address", "add", "10.77.9.100/32", "dev", "lan0")
    cluster.start("gw1")
    cluster.start("w1")
    cluster.start("gw3")
    assert cluster.wait_holder("w1") in ("gw1", "gw3")


def _listen(port: int, kind: int) -> None:
    """Hold a port until the test ends."""
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("0.0.0.0", port))
        if kind == socket.SOCK_STREAM:
            taken.listen(1)
        while True:
            os.read(os.pipe()[0], 1)


@pytest.mark.parametrize(
    ("port", "kind", "words"),
    [
        (9618, socket.SOCK_STREAM, "TCP port 10.77.9.100:9618"),
        (9618, socket.SOCK_DGRAM, "UDP port 10.77.9.100:9618"),
        (9619, socket.SOCK_DGRAM, "UDP port 10.77.9.1:9619"),
    ],
)
def test_a_port_in_use_is_named(cluster: Cluster, port: int, kind: int, words: str) -> None:
    host = cluster.segment.hosts["gw1"]
    host.start(_listen, port, kind)
    option = "-lnt" if kind == socket.SOCK_STREAM else "-lnu"
    while f":{port} " not in host.run("ss", option).stdout:
        pass
    sentence = _refused(cluster, "gw1", "--node", "gw1")
    assert words in sentence
    assert "in use" in sentence


def test_a_manager_without_htcondor_is_told_so(cluster: Cluster) -> None:
    cluster.segment.host("cm1", "10.77.9.5/24")
    cluster.config("cm1").write_text(cluster.config("gw1").read_text())
    assert "HTCondor is not installed here" in _refused(cluster, "cm1", "--node", "cm1")


def test_an_ordinary_user_is_told_to_be_root(cluster: Cluster) -> None:
    assert "must be started as root" in _refused(cluster, "gw1", "--node", "gw1", user=65_534)


def test_a_damaged_vote_file_stops_the_start(cluster: Cluster) -> None:
    state = cluster.folder / "state-gw1"
    state.mkdir(mode=0o700)
    (state / "vote-vip.json").write_text('{"format":1,"election":"vip","term":3,"vote":"gw2","checksum":1}')
    assert "is damaged" in _refused(cluster, "gw1", "--node", "gw1")


def test_every_mistake_of_a_configuration_is_shown_with_its_place(cluster: Cluster) -> None:
    _replace(cluster.config("gw1"), "heartbeat 50ms", "heartbeet 50ms")
    _replace(cluster.config("gw1"), "warm-standby on", "warm-standby maybe")
    done = subprocess.run(
        [*PYTHON, "check", "-f", str(cluster.config("gw1"))], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 1
    assert "did you mean 'heartbeat'" in done.stderr
    assert f"{cluster.config('gw1')}:7:" in done.stderr
    assert "maybe" in done.stderr
