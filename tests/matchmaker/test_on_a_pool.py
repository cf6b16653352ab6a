"""The matchmaker's control on a real HTCondor: two managers, an execute host with eight slots, a submit host.

The code under test runs on the managers themselves, as it does at a site; what it returns comes back as JSON.
"""

import contextlib
import json
import os
import textwrap

import pytest
import trio

from gateway.lab import condor as lab_condor
from gateway.lab import rootfs
from gateway.lab.pool import Lab
from gateway.lab.topology import System, Topology

pytestmark = pytest.mark.pool

PRELUDE = """
import contextlib, json, os, signal, sys, time
import msgspec, structlog, trio
from gateway.config.settings import Endpoint
from gateway.matchmaker import condor, master, negotiator, prime, probe
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
CM1, CM2 = Endpoint("10.77.0.11", 9618), Endpoint("10.77.0.12", 9618)

async def fresh():
    found = negotiator.Negotiator(await condor.discover())
    await found.reset_at_start()
    return found

def processes():
    return len(master.processes("/usr/sbin/condor_negotiator"))

def cycles():
    try:
        with open("/var/log/condor/NegotiatorLog") as log:
            return log.read().count("Started Negotiation Cycle")
    except FileNotFoundError:
        return 0

async def run():
"""

JOBS = """\
universe = vanilla
executable = /usr/bin/sleep
seconds = $(Process) % 3 + 1
arguments = $INT(seconds)
should_transfer_files = NO
queue 400
"""

SCHEDD_LOG = "/var/log/condor/SchedLog"


async def on(lab, host, body, *arguments, timeout_s=60):
    """Run the lines of `body`, an async function's, on `host`; return what it returned."""
    source = PRELUDE + textwrap.indent(textwrap.dedent(body), "    ")
    source += "\nprint(json.dumps(msgspec.to_builtins(trio.run(run))))\n"
    environment = {"PYTHONPATH": rootfs.LIBRARY}
    done = await lab.exec(
        host, ["python3", "-P", "-c", source, *arguments], timeout_s=timeout_s, environment=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def eventually(condition, limit_s=30):
    with trio.fail_after(limit_s):
        while True:
            if await condition():
                return
            await trio.sleep(0.2)


@pytest.fixture(scope="module")
def lab():
    shape = {"name": f"cgm{os.getpid()}", "managers": 2, "execute": 1, "slots": 8}
    topology = Topology(system=System.PLAIN, **shape)
    # The submit and execute hosts talk to cm1 itself; the managers are as behind a virtual address.
    manager = lab_condor.pool_config(Topology(system=System.OURS, **shape), topology.hosts[0])
    files = {host: {lab_condor.POOL_FILE: manager} for host in ("cm1", "cm2")}

    async def up():
        lab = await Lab.up(topology, files=files)
        await eventually(lambda: _slots_seen(lab, 8))
        return lab

    lab = trio.run(up)
    yield lab
    trio.run(lab.down)


async def _slots_seen(lab, wanted):
    done = await lab.exec("cm1", ["condor_status", "-af", "Name"])
    return done.returncode == 0 and len(done.stdout.split()) == wanted


async def test_discovery_asks_htcondor_where_it_keeps_its_things(lab):
    host = await on(lab, "cm1", "return await condor.discover()")
    assert host["config_dir"] == "/etc/condor/config.d"
    assert host["accountant_log"] == "/var/spool/condor/Accountantnew.log"
    assert host["negotiator"] == "/usr/sbin/condor_negotiator"
    assert (host["uid"], host["gid"]) == (100, 100)
    assert host["version"].startswith("23.")


async def test_configuration_that_cannot_be_read_is_one_clear_sentence(lab):
    said = await on(
        lab,
        "cm1",
        """
        os.environ["CONDOR_CONFIG"] = "/nowhere"
        try:
            await condor.discover()
        except condor.CondorMissing as error:
            return str(error)
        """,
    )
    assert said.startswith("HTCondor's configuration cannot be read: ")
    assert "/nowhere" in said


async def test_collector_answers_with_an_instance_of_its_own(lab):
    one, again, other = await on(
        lab,
        "cm1",
        "return [await probe.collector_instance(at, timeout_ms=2000) for at in (CM1, CM1, CM2)]",
    )
    assert one == again
    assert one != other


async def test_master_that_does_not_run_is_named(lab):
    reason = await on(
        lab,
        "cm1",
        """
        host = msgspec.structs.replace(await condor.discover(), master="/usr/sbin/condor_credd")
        try:
            await master.find_master(host)
        except master.MasterMissing as missing:
            return missing.reason
        """,
    )
    assert reason == "not-running"


async def test_negotiator_runs_only_between_start_and_stop(lab):
    found = await on(
        lab,
        "cm1",
        """
        ours = await fresh()
        seen = [processes()]
        before = cycles()
        await ours.start(())
        seen.append((ours.running, processes()))
        with trio.fail_after(10):
            while cycles() == before:
                await trio.sleep(0.01)
        await ours.stop(5000)
        seen.append((ours.running, processes()))
        return seen
        """,
    )
    assert found == [0, [True, 1], [False, 0]]


async def test_frozen_negotiator_is_stopped_when_its_grace_is_over(lab):
    found = await on(
        lab,
        "cm1",
        """
        ours = await fresh()
        await ours.start(())
        os.kill(ours.pid, signal.SIGSTOP)
        await ours.stop(100)
        return processes()
        """,
    )
    assert found == 0


async def test_negotiator_whose_start_was_cut_short_is_killed_and_stays_dead(lab):
    """The lease ends while condor_master is about to start it."""
    found = await on(
        lab,
        "cm1",
        """
        seen = []
        for delay_ms in range(0, 40, 4):
            ours = await fresh()
            with trio.move_on_after(delay_ms / 1000):
                await ours.start(())
            ours.kill()
            await ours.stop(0)
            seen.append(processes())
            await trio.sleep(0.1)
            seen.append(processes())
        return sorted(set(seen))
        """,
    )
    assert found == [0]


async def test_order_that_is_given_twice_leaves_the_collector_alone(lab):
    found = await on(
        lab,
        "cm1",
        """
        def reconfigured():
            with open("/var/log/condor/CollectorLog") as log:
                return log.read().count("In CollectorDaemon::Config()")
        ours = await fresh()
        await ours.start(())
        await trio.sleep(0.5)
        before, pid = reconfigured(), ours.pid
        await ours.start(())
        await trio.sleep(0.5)
        same = reconfigured()
        await ours.start(("10.77.0.12:9618",))
        await trio.sleep(0.5)
        return [same - before, reconfigured() - same, ours.pid == pid]
        """,
    )
    assert found == [0, 1, True]


async def test_killed_negotiator_stays_dead_after_stop(lab):
    found = await on(
        lab,
        "cm1",
        """
        ours = await fresh()
        await ours.start(())
        ours.kill()
        with trio.fail_after(2):
            await ours.wait_exit()
        await ours.stop(1000)
        seen = {processes()}
        for _ in range(120):  # condor_master starts a daemon again 10 s after it has ended
            await trio.sleep(0.1)
            seen.add(processes())
        return sorted(seen)
        """,
    )
    assert found == [0]


async def test_negotiator_that_condor_master_started_again_is_stopped_too(lab):
    found = await on(
        lab,
        "cm1",
        """
        ours = await fresh()
        await ours.start(())
        first = ours.pid
        os.kill(first, signal.SIGKILL)
        with trio.fail_after(20):
            while not (again := set(master.processes("/usr/sbin/condor_negotiator")) - {first}):
                await trio.sleep(0.05)
        await ours.stop(5000)
        return processes()
        """,
    )
    assert found == 0


async def test_negotiator_of_a_former_life_is_ended_at_the_start_of_the_node(lab):
    await on(lab, "cm1", "await (await fresh()).start(())")
    assert await on(lab, "cm1", "return processes()") == 1
    assert await on(lab, "cm1", "await fresh(); return processes()") == 0


async def test_negotiator_whose_master_was_killed_is_ended_at_the_start_of_the_node(lab):
    found = await on(
        lab,
        "cm2",
        """
        ours = await fresh()
        await ours.start(())
        (boss,) = master.processes("/usr/sbin/condor_master")
        os.kill(ours.pid, signal.SIGSTOP)  # it would end by itself when it misses its master
        os.kill(boss, signal.SIGKILL)
        while boss in master.processes("/usr/sbin/condor_master"):
            await trio.sleep(0.01)
        seen = [processes()]
        await fresh()
        return [*seen, processes()]
        """,
    )
    assert found == [1, 0]
    await lab.kill("cm2")
    await lab.revive("cm2")


async def test_a_manager_whose_power_was_cut_while_it_was_elected_boots_without_a_negotiator(lab):
    await on(lab, "cm2", "await (await fresh()).start(())")
    await lab.kill("cm2")
    await lab.revive("cm2")  # HTCondor alone, before any word of this program
    ran = """
    with trio.fail_after(20):
        while not (boss := master.processes("/usr/sbin/condor_master")):
            await trio.sleep(0.05)
        while "Started DaemonCore process" not in open("/var/log/condor/MasterLog").read():
            await trio.sleep(0.05)
    await trio.sleep(3)  # condor_master starts all that is listed at once
    return [len(boss), processes()]
    """
    assert await on(lab, "cm2", ran) == [1, 0]


@contextlib.asynccontextmanager
async def configured(lab, host, path, line):
    await lab.exec(host, ["sh", "-c", f"echo '{line}' > {path}"])
    try:
        yield
    finally:
        await lab.exec(host, ["rm", path])


REFUSED = """
try:
    await fresh()
except negotiator.NegotiatorFailed as failed:
    return [failed.reason, str(failed)]
"""


async def test_negotiator_in_the_administrators_own_list_is_refused(lab):
    line = "DAEMON_LIST = $(DAEMON_LIST) NEGOTIATOR"
    async with configured(lab, "cm1", "/etc/condor/config.d/60-site.config", line):
        reason, text = await on(lab, "cm1", REFUSED)
    assert reason == "listed-elsewhere"
    assert "remove NEGOTIATOR from it" in text


async def test_setting_that_overrules_the_nodes_file_is_refused(lab):
    # condor_config.local is read after the folder.
    line = "COLLECTOR.SEC_DEFAULT_SESSION_DURATION = 86400"
    async with configured(lab, "cm1", "/etc/condor/condor_config.local", line):
        reason, text = await on(lab, "cm1", REFUSED)
    assert reason == "file-not-read"
    assert "'86400'" in text


async def test_cold_standby_is_complete_after_priming_under_load(lab):
    await on(lab, "cm1", 'await (await fresh()).start(("10.77.0.12:9618",))')
    await lab.submit(JOBS)
    for _ in range(3):
        await lab.kill("cm2")
        await lab.revive("cm2")
        await eventually(lambda: _answers(lab, "cm2"))
        report = await on(lab, "cm1", 'return await prime.prime(CM1, {"cm2": CM2}, timeout_ms=30000)')
        assert report["complete"] == {"cm2": True}, report
        assert report["failed"] == {}
        assert report["total"] >= 8 + 1 + 1 + 1  # slots, startd, schedd, submitter
        lacking = await on(lab, "cm1", "return sorted(prime.needed(await prime.compare(CM1, CM2)))")
        assert lacking == []
    await _new_leader_matches_with_what_it_was_given(lab)


async def _answers(lab, host):
    return (await lab.exec(host, ["condor_status", "-limit", "1"])).returncode == 0


async def _new_leader_matches_with_what_it_was_given(lab):
    """The primed ads hold the claim ids: a negotiator there matches, while cm1's is frozen."""
    await on(lab, "cm1", "for pid in master.processes('/usr/sbin/condor_negotiator'): os.kill(pid, signal.SIGSTOP)")
    try:
        await on(lab, "cm2", "await (await fresh()).start(())")

        async def matched():
            log = await lab.exec("cm2", ["grep", "-c", "Successfully matched", "/var/log/condor/NegotiatorLog"])
            return log.returncode == 0

        await eventually(matched)
        running = await lab.exec("submit1", ["condor_q", "-allusers", "-run", "-af", "ClusterId"])
        assert running.stdout.split()
    finally:
        await on(lab, "cm2", "await fresh()")
        await on(lab, "cm1", "await fresh()")
        await lab.exec("submit1", ["condor_rm", "-all"])


async def test_unreachable_standby_is_named_and_not_waited_for(lab):
    report = await on(
        lab, "cm1", 'return await prime.prime(CM1, {"cm9": Endpoint("10.77.0.19", 9618)}, timeout_ms=30000)'
    )
    assert report["complete"] == {"cm9": False}
    assert "condor_status" in report["unreachable"]["cm9"]
    assert report["took_ms"] < 20_000


async def test_refresh_replaces_an_ad_that_is_older_than_its_slot(lab):
    """A slot's update went into a dead connection: the collector thinks that the slot is busy."""
    done = await lab.exec(
        "cm1",
        ["sh", "-c", "condor_status -long 'slot3@exec1.lab.internal' | sed 's/^State = .*/State = \"Claimed\"/' "
         "| condor_advertise -tcp UPDATE_STARTD_AD -"],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    async def state():
        query = ["condor_status", "-af", "State", "-constraint", 'Name == "slot3@exec1.lab.internal"']
        return (await lab.exec("cm1", query)).stdout.strip()

    await eventually(lambda: _is(state, "Claimed"))
    report = await on(lab, "cm1", "return await prime.refresh(CM1, timeout_ms=20000)")
    assert report["silent"] == []
    await eventually(lambda: _is(state, "Unclaimed"))


async def test_refresh_asks_no_schedd_that_the_negotiator_asks_anyway(lab):
    """It asks one that seems to have nothing to do: the update with its first jobs may be the one that was lost."""
    waiting = JOBS.replace("queue 400", "requirements = false\nqueue 1")

    async def idle_jobs():
        said = await lab.exec("cm1", ["condor_status", "-submitters", "-af", "IdleJobs"])
        return str(sum(map(int, said.stdout.split())))

    await lab.exec("submit1", ["condor_reschedule"])  # jobs that were removed count until its next update
    await eventually(lambda: _is(idle_jobs, "0"), limit_s=60)
    report = await on(lab, "cm1", "return await prime.refresh(CM1, timeout_ms=20000)")
    assert report["total"] == 2  # the startd and the schedd
    await lab.submit(waiting)
    try:
        await eventually(lambda: _is(idle_jobs, "1"))
        report = await on(lab, "cm1", "return await prime.refresh(CM1, timeout_ms=20000)")
        assert report["total"] == 1
    finally:
        await lab.exec("submit1", ["condor_rm", "-all"])


async def _is(ask, wanted):
    return await ask() == wanted


async def test_daemon_that_cannot_be_asked_is_in_the_report(lab):
    nobody = "<10.77.0.31:9618?addrs=10.77.0.31-9618&alias=exec1.lab.internal&noUDP&sock=startd_0_0000>"
    report = await on(lab, "cm1", "return await prime.ask_for_updates([sys.argv[1]], [])", nobody)
    assert list(report["failed"]) == [nobody]


async def test_negotiator_refuses_reschedule_and_obeys_the_administrator(lab):
    """What the schedd sends would have to be authenticated, and a schedd that authenticates does nothing else."""

    async def refusals():
        pattern = "Failed to send RESCHEDULE to negotiator.*Connection closed"
        return int((await lab.exec("submit1", ["grep", "-c", pattern, SCHEDD_LOG])).stdout)

    async def refused():
        await lab.exec("submit1", ["condor_reschedule"])  # the first may come before the negotiator's ad
        return await refusals() > before

    before = await refusals()
    await on(lab, "cm1", "await (await fresh()).start(())")
    try:
        await eventually(refused)
        for order in (["-setfactor", "physicist@lab.internal", "7"], ["-setprio", "physicist@lab.internal", "3"]):
            done = await lab.exec("cm1", ["condor_userprio", *order])
            assert done.returncode == 0, done.stderr
            assert "was set to" in done.stdout
    finally:
        await on(lab, "cm1", "await fresh()")
        await lab.exec("submit1", ["condor_rm", "-all"])


async def test_schedd_answers_while_jobs_are_submitted_to_a_new_negotiator(lab):
    """It stood still for 20 s: it authenticated its RESCHEDULE while the negotiator waited for its answer."""
    slowest_s = 0.0

    async def timed(*command):
        nonlocal slowest_s
        started = trio.current_time()
        await lab.exec("submit1", command, timeout_s=60, user=rootfs.USER, input=JOBS.replace("queue 400", "queue 20"))
        slowest_s = max(slowest_s, trio.current_time() - started)

    try:
        for _ in range(8):
            await on(lab, "cm1", "await (await fresh()).start(())")
            async with trio.open_nursery() as nursery:
                for _ in range(16):
                    nursery.start_soon(timed, "condor_submit", "-")
                    nursery.start_soon(timed, "condor_q", "-totals")
                    await trio.sleep(0.3)
            await lab.exec("submit1", ["condor_rm", "-all"])
    finally:
        await on(lab, "cm1", "await fresh()")
        await lab.exec("submit1", ["condor_rm", "-all"])
    assert slowest_s < 10


async def test_nodes_are_shown_by_the_pool_s_own_tools_and_removed_ones_are_not(lab):
    await on(
        lab,
        "cm1",
        """
        from gateway.matchmaker import gateway_ads
        def ad(node, cluster, *held):
            return {"MyType": gateway_ads.MY_TYPE, "TargetType": "", "Name": f"{node}@{cluster}", "Node": node,
                    "Cluster": cluster, "Holds": held, "Alive": True, "Term": 7}
        await gateway_ads.send_ads(CM1, [ad("gw1", "lab", "pool-vip"), ad("gone", "lab"), ad("gone", "other")])
        await gateway_ads.remove_others(CM1, "lab", ["gw1", "cm1"])
        """,
    )
    query = ["condor_status", "-any", "-constraint", 'MyType=="MatchmakerGateway"', "-af", "Name", "Holds", "Alive"]
    shown = await lab.exec("cm1", query)
    assert shown.stdout.splitlines() == ["gone@other {  } true", 'gw1@lab { "pool-vip" } true']
    slots = await lab.exec("cm1", ["condor_status", "-af", "Name"])
    assert len(slots.stdout.split()) == 8, "nothing else is taken away"
