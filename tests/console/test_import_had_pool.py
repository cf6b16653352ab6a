# ruff: noqa: ASYNC110 (what is waited for happens in other processes)
"""A real pool with condor_had is moved to condor-gateway by what `import-had` writes and says, and outlives a manager.

One test, step by step as the command prints them: each step needs the one before.
"""

import json
import os

import pytest
import trio

from gateway.lab.pool import Lab
from gateway.lab.topology import System, Topology

pytestmark = [
    pytest.mark.pool,
    pytest.mark.timeout(240),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

MANAGERS, ENTITIES = ("cm1", "cm2"), ("submit1", "exec1")
CONFIG = "/etc/condor-gateway/gateway.cfg"
KEY = "/etc/condor-gateway/cluster.key"
POOL_FILE = "/etc/condor/config.d/50-pool.config"
JOB = "universe = vanilla\nexecutable = /usr/bin/true\nshould_transfer_files = NO\nqueue 1\n"
GATEWAY_LOG, MASTER_LOG = "/var/log/condor-gateway.log", "/var/log/condor/MasterLog"
STEP_S_MAX = 60


async def done(lab, host, *argv, input=None):
    """What a command prints; it succeeds."""
    ended = await lab.exec(host, argv, timeout_s=40, input=input)
    assert ended.returncode == 0, f"{host}: {argv}: {ended.stdout}{ended.stderr}"
    return ended.stdout


async def put(lab, host, path, text):
    await done(lab, host, "sh", "-c", f"umask 077; cat > {path}; chmod 644 {path}", input=text)


async def until(lab, true_now):
    with trio.move_on_after(STEP_S_MAX):
        while not await true_now():
            await trio.sleep(0.25)
        return
    logs = (lab.file(host, path) for path in (GATEWAY_LOG, MASTER_LOG) for host in MANAGERS)
    said = (f"{log}:\n" + "\n".join(log.read_text().splitlines()[-20:]) for log in logs if log.exists())
    pytest.fail("\n".join((f"not within {STEP_S_MAX} s", *said)))


async def status(lab, host):
    ended = await lab.exec(host, ["condor-gateway", "status", "--json"], timeout_s=20)
    return json.loads(ended.stdout) if ended.returncode == 0 else None


async def leaders(lab, host):
    said = await status(lab, host)
    return {one["leader"] for one in said["elections"].values()} if said else set()


async def test_a_pool_with_had_is_moved_by_what_the_command_writes_and_says():
    topology = Topology(name=f"hi{os.getpid()}", system=System.HAD, managers=2, gateways=0, execute=1, slots=2)
    lab = await Lab.up(topology)
    try:
        told = ("--address", Topology().virtual_address, "--device", "eth0", "-o", CONFIG)
        said = await done(lab, "cm1", "condor-gateway", "import-had", *told)
        assert "120 s, 126 s at most; measured 97-124 s" in said
        assert (
            "HAD_LIST = cm1.lab.internal:9618, cm2.lab.internal:9618   (/etc/condor/config.d/50-pool.config, line"
            in said
        )
        await done(lab, "cm1", "condor-gateway", "check", "-f", CONFIG)
        await move(lab)
        assert await leaders(lab, "cm2") <= set(MANAGERS)
        await pool_answers(lab)
        await nothing_is_wrong(lab)
        # The manager that does both jobs dies: the other one goes on, as HAD would have, in another time.
        leader = (await status(lab, "cm1"))["elections"]["managers"]["leader"]
        other = next(name for name in MANAGERS if name != leader)
        await lab.kill(leader)
        await until(lab, lambda: only(lab, other))
        await pool_answers(lab)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 60):
            await lab.down()


async def only(lab, host):
    return await leaders(lab, host) == {host}


async def move(lab):
    """The steps that `import-had` prints."""
    text = await done(lab, "cm1", "cat", CONFIG)
    await done(lab, "cm1", "condor-gateway", "keygen", KEY)
    key = await done(lab, "cm1", "cat", KEY)
    await put(lab, "cm2", CONFIG, text)
    await put(lab, "cm2", KEY, key)
    await done(lab, "cm2", "chmod", "600", KEY)
    for host in ENTITIES:
        role = "submit" if host == "submit1" else "execute"
        written = await done(lab, "cm1", "condor-gateway", "condor-config", "-f", CONFIG, "--role", role)
        await put(lab, host, POOL_FILE, written)
    for host in MANAGERS:
        await put(lab, host, POOL_FILE, await done(lab, host, "condor-gateway", "condor-config", "--role", "manager"))
        await done(lab, host, "condor_restart")
    await until(lab, lambda: nobody_runs(lab, "condor_had"))
    for host in MANAGERS:
        await until(lab, lambda host=host: has_restarted(lab, host))
    assert await lab.running("condor_negotiator") == []
    for host in MANAGERS:
        shell = f"exec setsid condor-gateway run -f {CONFIG} > {GATEWAY_LOG} 2>&1 < /dev/null &"
        await done(lab, host, "sh", "-c", shell)
    await until(lab, lambda: elected(lab))
    for host in ENTITIES:
        await done(lab, host, "condor_reconfig")


async def nobody_runs(lab, program):
    return await lab.running(program) == []


async def has_restarted(lab, host):
    """HTCondor listens as its new configuration says.

    condor_replication takes up to 8 s to end (measured), long after condor_had, and condor_shared_port ends behind it.
    Until then that one has the port at every address, and a gateway refuses to start. Nobody starts it again here, as
    its service would.
    """
    ended = await lab.exec(host, ["ss", "-Hltn", "sport = :9618"], timeout_s=20)
    return [line.split()[3] for line in ended.stdout.splitlines()] == [f"{lab.topology.host(host).address}:9618"]


async def elected(lab):
    found = await leaders(lab, "cm1")
    return bool(found) and None not in found and len(await lab.running("condor_negotiator")) == 1


async def pool_answers(lab):
    """Through the address every slot is seen, and a job that is submitted now runs."""

    async def slots():
        ended = await lab.exec("submit1", ["condor_status", "-af", "Name"], timeout_s=20)
        return len(ended.stdout.split()) == lab.topology.slots

    async def schedd():
        ended = await lab.exec("submit1", ["condor_status", "-schedd", "-af", "Name"], timeout_s=20)
        return "submit1" in ended.stdout

    async def queue_is_empty():
        ended = await lab.exec("submit1", ["condor_q", "-allusers", "-af", "ClusterId"], timeout_s=20)
        return ended.returncode == 0 and not ended.stdout.strip()

    await until(lab, slots)
    await until(lab, schedd)
    await lab.submit(JOB)
    await until(lab, queue_is_empty)


async def nothing_is_wrong(lab):
    """The doctor finds no error on the managers, each asked by the other one too; one negotiator runs."""
    ended = await lab.exec("cm1", ["condor-gateway", "doctor", "--peers", "--json"], timeout_s=60)
    found = json.loads(ended.stdout)["findings"]
    assert [one for one in found if one["severity"] == "error"] == [], ended.stdout
    fine = {one["name"] for one in found if one["severity"] == "ok"}
    assert {
        "daemon-list",
        "condor-host",
        "condor-interface",
        "peers-heard",
        "leaders",
        "same-file",
        "peers-asked",
    } <= fine
    assert len(await lab.running("condor_negotiator")) == 1
