"""A session with every command on a real pool: what each prints, held against a transcript of it.

In a transcript numbers that differ from run to run are N, moments are DATE; a line `...` stands for any lines, and one
that ends in `...` for any that begins so.
`REWRITE_SESSIONS=1` writes the transcripts anew, without such lines: read the difference before it is committed.
"""

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from gateway.debian.build import FILES
from gateway.lab.cluster import CONFIG_FILE
from gateway.lab.pool import Lab
from gateway.lab.topology import Topology
from tests.support import labs
from tests.support.pools import recovering, run, status, wait_healthy

pytestmark = [
    pytest.mark.pool,
    pytest.mark.timeout(240),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

TRANSCRIPTS = Path(__file__).parent / "data" / "sessions"
REWRITE = os.environ.get("REWRITE_SESSIONS") == "1"
# Transcript, host, command line, exit status; in this order, for the later ones see what the earlier ones did.
SESSION = [
    ("check", "gw1", "condor-gateway check", 0),
    ("check-broken", "gw1", "sed s/lease/leese/ $FILE > b.cfg; condor-gateway check -f b.cfg", 1),
    ("config-show", "gw1", "condor-gateway config show --origin", 0),
    ("config-keywords", "gw1", "condor-gateway config keywords lease", 0),
    ("diff", "gw1", "sed 's/lease 300ms/lease 250ms/' $FILE > d.cfg; condor-gateway diff -f d.cfg", 0),
    ("status", "gw1", "condor-gateway status", 0),
    ("status-manager", "cm1", "condor-gateway status", 0),
    ("status-watch", "gw1", "timeout -s INT 3 condor-gateway status --watch | sed -n '1,/^$/p' | head -3", 0),
    ("simulate", "cm2", "condor-gateway simulate cm1", 0),
    ("pause", "cm2", "condor-gateway pause changing a switch", 0),
    ("switchover-paused", "gw2", "condor-gateway switchover address", 1),
    ("resume", "gw2", "condor-gateway resume", 0),
    ("switchover-address", "cm2", "condor-gateway switchover address --to gw2", 0),
    ("switchover-matchmaker", "gw1", "condor-gateway switchover matchmaker --to cm2", 0),
    ("switchover-nobody", "gw1", "condor-gateway switchover matchmaker --to gw1", 1),
    ("failover", "gw1", "condor-gateway failover managers", 0),
    ("drain", "gw1", "condor-gateway drain cm1", 0),
    ("undrain", "cm1", "condor-gateway undrain cm1", 0),
    ("history", "gw1", "condor-gateway history", 0),
    ("reload-dry", "gw1", "condor-gateway reload --dry-run", 0),
    ("reload", "gw1", "condor-gateway reload", 0),
    ("doctor", "gw2", "condor-gateway doctor --peers", 0),
    ("report", "gw2", "condor-gateway report -o bundle.tar.gz && tar tzf bundle.tar.gz | sort", 0),
    ("explain", "gw1", "condor-gateway explain election.won", 0),
    ("keygen", "gw1", "condor-gateway keygen new.key && condor-gateway keygen --rotate new.key", 0),
    ("condor-config", "gw1", "condor-gateway condor-config --role manager --node cm1", 0),
    ("import-had", "cm1", "condor-gateway import-had", 1),
    ("merge", "cm1", "for one in a b c; do cp $SPOOL/*tnew.log $one; done; condor-gateway merge a b c -o m", 0),
    ("completion", "gw1", "condor-gateway completion bash | head -3", 0),
    ("man", "gw1", "condor-gateway man | head -3", 0),
    ("lab", "gw1", "condor-gateway lab status", 1),
    ("unknown", "gw1", "condor-gateway statsu", 2),
]  # fmt: skip


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with labs.running(Topology(name=f"ses{os.getpid()}", managers=2, execute=1, slots=2)) as made:
        trio.run(wait_healthy, made)
        trio.run(_settle, made)
        yield made


async def _settle(lab: Lab) -> None:
    """Have gw1 hold the address and cm1 be the matchmaker, as the transcripts begin."""
    seen = await status(lab, "gw1")
    for name, wanted in (("pool-vip", "gw1"), ("managers", "cm1")):
        if seen["elections"][name]["leader"] != wanted:
            done = await lab.exec("gw1", ["condor-gateway", "switchover", name, "--to", wanted], timeout_s=60)
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "host", "line", "exit_status"), SESSION, ids=[name for name, *_ in SESSION])
def test_a_session_is_as_its_transcript_shows_it(lab: Lab, name: str, host: str, line: str, exit_status: int):
    done = trio.run(
        partial(
            lab.exec, host, ["sh", "-c", f"cd /root; FILE={CONFIG_FILE} SPOOL=/var/spool/condor; {line}"], timeout_s=90
        )
    )
    said = f"{host}# {line}\n{normalised(done.stdout + done.stderr, lab.topology.name)}"
    path = TRANSCRIPTS / f"{name}.txt"
    if REWRITE:
        path.write_text(said)
    assert done.returncode == exit_status, said
    assert fits(said.splitlines(), path.read_text().splitlines()), f"{path.name} shows something else than\n{said}"


async def test_condor_master_runs_a_node_reloads_and_stops_it(lab: Lab):
    """As the package's example says; in the place of the node that the lab itself has started."""
    launcher, settings = (FILES / "under-condor-master").read_text(), (FILES / "condor-master.conf").read_text()
    settings = settings.replace("/usr/lib/condor-gateway", "/usr/bin")
    here = "CONDOR_HOST = 10.77.0.100\nENABLE_KERNEL_TUNING = False\n"  # else it would write this machine's sysctls
    place = (
        f"cat >/usr/bin/under-condor-master <<'END'\n{launcher}END\nchmod 755 /usr/bin/under-condor-master\n"
        f"cat >/etc/condor/config.d/90-gateway.config <<'END'\n{here}{settings}END\n"
    )
    await run(lab, "gw2", "sh", "-c", f"{place} kill -TERM $(pgrep -of gateway/guard)")
    await wait_said(lab, "pgrep -cf [g]ateway/guard || true", "0")
    await run(lab, "gw2", "sh", "-c", "/usr/sbin/condor_master")
    await wait_said(lab, "condor-gateway status | head -1", "seen from gw2")
    before = await run(lab, "gw2", "pgrep", "-f", "guarded")
    await run(lab, "gw2", "sh", "-c", "kill -HUP $(pgrep -o condor_master)")
    await wait_said(lab, "grep -c node.taken-over /var/log/condor/GatewayLog", "1")
    assert await run(lab, "gw2", "pgrep", "-f", "guarded") != before
    await run(lab, "gw2", "sh", "-c", "kill -TERM $(pgrep -o condor_master)")
    await wait_said(lab, "tail -n 1 /var/log/condor/GatewayLog", "node.ended")


async def wait_said(lab: Lab, line: str, word: str) -> None:
    """Wait until a command on gw2 says a word."""
    async with recovering(lab, f"'{line}' to say {word!r}"):
        while word not in (said := (await lab.exec("gw2", ["sh", "-c", line])).stdout):  # noqa: ASYNC110 (of others)
            await trio.sleep(0.3)
    assert word in said


def normalised(text: str, lab_name: str) -> str:
    """Return an output without what differs from run to run."""
    text = text.replace(lab_name, "LAB")
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d( \+0000)?|\d{8}T\d{6}Z", "DATE", text)
    text = re.sub(r"(?<![\w.:/-])\d+(?:[.,]\d+)*(?!\w|[.:/]\d)", _number, text)
    text = re.sub(r"N [kMG]?B", "N B", text)
    lines = [re.sub(r"(?<=\S) {2,}", "  ", line).rstrip() for line in text.splitlines()]
    return "".join(f"{line}\n" for line in lines)


def _number(found: re.Match[str]) -> str:
    return found[0] if found[0].count(".") == 3 else "N"  # an address is what it is


def fits(lines: list[str], transcript: list[str]) -> bool:
    """Tell whether lines are those of a transcript, whose `...` stand for any."""
    if not transcript:
        return not lines
    first, *rest = transcript
    if first.strip() == "...":
        return any(fits(lines[skipped:], rest) for skipped in range(len(lines) + 1))
    if not lines or not (lines[0] == first or (first.endswith("...") and lines[0].startswith(first[:-3]))):
        return False
    return fits(lines[1:], rest)


def test_every_command_has_a_session():
    from gateway.console.commands import command_modules

    spoken = {word for _, _, line, _ in SESSION for word in re.findall(r"condor-gateway ([a-z-]+)", line)}
    assert {module.NAME for module in command_modules()} <= spoken


@pytest.mark.parametrize(
    ("said", "is_"),
    [
        ("gw1 for 12 s (term 3)", "gw1 for N s (term N)"),
        ("10.77.0.91:9619 and 10.77.0.100/32", "10.77.0.91:9619 and 10.77.0.100/32"),
        ("lease 300ms; 1,234 kB/s", "lease 300ms; N B/s"),
        ("at 2026-11-23 17:22:21 +0000", "at DATE"),
    ],
)
def test_only_what_differs_is_taken_out(said: str, is_: str):
    assert normalised(said, "nolab") == f"{is_}\n"


def test_three_dots_stand_for_any_lines_and_nothing_else_does():
    assert fits(["a", "b", "c", "d"], ["a", "...", "d"])
    assert fits(["a", "d"], ["a", "...", "d"])
    assert fits(["abc", "d"], ["ab...", "d"])
    assert not fits(["ac", "d"], ["ab...", "d"])
    assert not fits(["a", "b"], ["a"])
    assert not fits(["a"], ["a", "b"])
    assert not fits(["a", "x", "c"], ["a", "b", "c"])
