"""Merged files on a real negotiator: 20 of them, each started on its own file at the same time, in one pool."""

import base64
import json
import os
import random
import time

import pytest
import trio

from gateway.core.reconcile import Pool, reconcile
from gateway.core.reconcile.claims import Groups, claims_of, customers_of, uses_of
from gateway.lab.pool import Lab
from gateway.lab.topology import System, Topology
from gateway.matchmaker.merge_letters import Begin, Story
from gateway.matchmaker.merge_work import Work
from gateway.matchmaker.poolvalues import COMMAND, pool_from
from gateway.wire.accountant import State, read_untrusted
from gateway.wire.compacted import compact
from tests.core.negotiating import MICRO, START_S, Negotiator, micro, text
from tests.core.test_reconcile_laws import edit_lease, some_side, some_world

pytestmark = pytest.mark.pool

FILES = 20
CUSTOMERS = (0, 1, 2, 5, 10, 30, 100, 200)
FOLDER = "/var/tmp/merged"
LIMIT_S = 60
COUNTERS = {
    "ResourcesUsed", "WeightedResourcesUsed", "HierWeightedResourcesUsed", "UnchargedTime", "WeightedUnchargedTime",
}  # fmt: skip
CHARGED = {"Priority", "AccumulatedUsage", "WeightedAccumulatedUsage", "BeginUsageTime", "LastUsageTime"}

# Starts one negotiator a folder, each with a name and a file of its own; waits until the first cycle of each is over;
# asks each for all its customers.
SCRIPT = """
import base64, json, os, subprocess, time
running, said = {}, {}
for number, data in json.load(open("/var/tmp/merged.json")).items():
    name, folder = "n" + number, "/var/tmp/merged/" + number
    os.makedirs(folder)
    with open(f"{folder}/Accountantnew.log", "wb") as file:
        file.write(base64.b64decode(data))
    for path in (folder, f"{folder}/Accountantnew.log"):
        os.chown(path, 100, 100)
    own = {"NEGOTIATOR_NAME": name, "SPOOL": folder, "NEGOTIATOR_LOG": f"{folder}/log",
           "NEGOTIATOR_ADDRESS_FILE": f"{folder}/address", "NEGOTIATOR_INTERVAL": "3600",
           "NEGOTIATOR_CYCLE_DELAY": "3600", "NEGOTIATOR_DEBUG": "D_ACCOUNTANT D_FULLDEBUG",
           "SEC_USE_FAMILY_SESSION": "False", "GROUP_NAMES": "phys, phys.hep"}
    env = dict(os.environ, **{f"_CONDOR_{key}": value for key, value in own.items()})
    running[name] = subprocess.Popen(["condor_negotiator", "-f", "-sock", name], env=env), folder
def finished(folder):
    try:
        return "Finished Negotiation Cycle" in open(f"{folder}/log", errors="replace").read()
    except FileNotFoundError:
        return False
deadline = time.monotonic() + 30
while time.monotonic() < deadline and not all(finished(folder) for _, folder in running.values()):
    time.sleep(0.1)
host = os.uname().nodename + ".lab.internal"
for name, (process, folder) in running.items():
    done = None
    while time.monotonic() < deadline and process.poll() is None:
        done = subprocess.run(["condor_userprio", "-name", f"{name}@{host}", "-long", "-allusers"], capture_output=True)
        if done.returncode == 0:
            break
        time.sleep(0.1)
    said[name] = {"alive": process.poll() is None, "userprio": done and done.stdout.decode("latin-1")}
for process, _ in running.values():
    process.terminate()
for process, _ in running.values():
    process.wait(10)
print(json.dumps(said))
"""


def crowd(draw: random.Random, base: State, number: int) -> None:
    """Add many customers to a base: plain, leased, of groups, with odd attributes and names."""
    for customer in range(number):
        group = draw.choice(("", "", "phys.", "phys.hep.", "unknown."))
        ad = base[f"Customer.{group}u{customer}{draw.choice(('', 'é', chr(0x4E2D)))}@lab"] = {
            "Priority": draw.choice(("0.500000", text(draw.randrange(10**9)))),
            "AccumulatedUsage": text(draw.randrange(10**13)),
            "WeightedAccumulatedUsage": text(draw.randrange(10**13)),
            "BeginUsageTime": str(START_S - draw.randrange(10**6)),
        }
        if draw.random() < 0.3:
            ad["PriorityFactor"] = draw.choice(("5.000000", "1000.0", "12345.678900"))
        if draw.random() < 0.2:
            edit_lease(draw, ad, START_S)
        if draw.random() < 0.2:
            ad["Shoe"] = draw.choice(('"a \\"quoted\\" text"', "{1,2}", "[ a = 1; b = a + 1 ]", "undefined"))


def act(draw: random.Random, state: State) -> None:
    """Let a side charge, edit, reset and delete some of the crowd."""
    one = Negotiator(state)
    for key in [key for key in state if key.startswith("Customer.") and "u" in key]:
        ad, chance = state[key], draw.random()
        if chance < 0.05:
            del state[key]
        elif chance < 0.1:
            one.state = state
            one.reset(key.removeprefix("Customer."), one.last_s)
        elif chance < 0.4:
            for name in ("AccumulatedUsage", "WeightedAccumulatedUsage"):
                ad[name] = text(micro(ad.get(name)) + draw.randrange(10**9))
        elif chance < 0.5:
            ad[draw.choice(("Ceiling", "Floor"))] = str(draw.randrange(1, 50))


def shifted(state: State, by_s: int) -> State:
    """Move a history in time: a negotiator charges from the last update until now."""
    times = ("LastUpdateTime", "BeginUsageTime", "LastUsageTime", "StartTime", "LeaseExpiration")
    moved = {}
    for key, ad in state.items():
        moved[key] = {
            name: str(int(value) + by_s) if name.endswith(times) and value.isdecimal() and int(value) > 10**9 else value
            for name, value in ad.items()
        }
    return moved


def some_merge(seed: int, folder) -> tuple[State, bytes]:
    """Merge one world as a node does, with what ours wrote after the rehearsal; return the result and its file."""
    draw = random.Random(seed)
    base, _ = some_world(seed)
    crowd(draw, base.state, CUSTOMERS[seed % len(CUSTOMERS)])
    sides = [some_side(draw, name, base.state, None) for name in ("ours", "theirs")]
    for side in sides:
        act(draw, side.state)
    merged_s = reconcile(base, sides).report.merged_s
    by_s = int(time.time()) - 20 - merged_s  # charged 20 s and the time until the negotiators start
    stories = []
    folder.mkdir()
    for one in (base, *sides):
        path = folder / one.name
        path.write_bytes(b"".join(compact(shifted(one.state, by_s), 3, 1_700_000_000)))
        moments = {"ended_s": one.ended_s, "took_over_s": one.took_over_s}
        known = {name: moment_s and moment_s + by_s for name, moment_s in moments.items()}
        stories.append(Story(name=one.name, path=str(path), term=one.term, **known))
    work = Work(Begin(str(folder / "base"), stories[1], [stories[2]], str(folder / "out"), Pool()))
    work.rehearse()
    with (folder / "ours").open("a") as file:
        file.write("101 Customer.late@lab * *\n103 Customer.late@lab Ceiling 11\n103 Customer.late@lab Priority 2.5\n")
    work.finish()
    data = (folder / "out").read_bytes()
    return read_untrusted(data), data


async def sees_a_slot(lab: Lab) -> bool:
    return "slot" in (await lab.exec("cm1", ["condor_status", "-af", "Name"])).stdout


async def eventually(condition) -> None:
    while not await condition():  # noqa: ASYNC110 (another process' state: there is no event)
        await trio.sleep(0.2)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """What 20 negotiators made of 20 merged files: number -> merged state, state afterwards, log, userprio."""
    topology = Topology(system=System.PLAIN, name=f"mrg{os.getpid()}", managers=1, execute=1, slots=1)
    folder = tmp_path_factory.mktemp("merged")
    merged = {number: some_merge(number, folder / str(number)) for number in range(FILES)}
    placed = json.dumps({number: base64.b64encode(data).decode() for number, (_, data) in merged.items()})

    async def run():
        lab = await Lab.up(topology, files={"cm1": {f"{FOLDER}.json": placed}})
        try:
            with trio.fail_after(LIMIT_S):
                await eventually(lambda: sees_a_slot(lab))
            done = await lab.exec("cm1", ["python3", "-c", SCRIPT], timeout_s=LIMIT_S)
            assert done.returncode == 0, done.stderr
            values = (await lab.exec("cm1", list(COMMAND))).stdout
            after = {}
            for number, (state, _) in merged.items():
                host = f"{FOLDER}/{number}"
                said = json.loads(done.stdout)[f"n{number}"]
                log = lab.file("cm1", f"{host}/log").read_text(errors="replace")
                now = read_untrusted(lab.file("cm1", f"{host}/Accountantnew.log").read_bytes())
                after[number] = state, now, log, said
            return after, values
        finally:
            await lab.down()

    return trio.run(run)


def test_a_negotiator_starts_on_each_merged_file_and_has_nothing_to_mend(loaded):
    for number, (_, _, log, said) in loaded[0].items():
        assert said["alive"], (number, log[-2000:])
        assert "Finished Negotiation Cycle" in log, number
        assert "corrupt" not in log.lower(), number
        # Its own check of counters against Resource records (Accountant::Initialize).
        assert "FIXING" not in log, (number, [line for line in log.splitlines() if "FIXING" in line])


def test_each_record_is_there_but_for_what_the_accountant_itself_makes_anew(loaded):
    for number, (merged, now, _, _) in loaded[0].items():
        # No machine of this pool shows these matches: its first cycle ends them.
        before, after = ({key for key in state if not key.startswith("Resource.")} for state in (merged, now))
        assert before <= after, number
        # A record for the root and each configured group, and for whoever submits here.
        known = {"<none>", "phys", "phys.hep", "physicist@lab.internal"}
        # And for a deleted user whose match goes on until then.
        known |= {claim.user for claim in claims_of(merged).values()}
        assert after - before <= {f"Customer.{name}" for name in known}, number
        for key in before:
            for name in merged[key].keys() | now[key].keys():
                old, new = merged[key].get(name), now[key].get(name)
                if name in COUNTERS | CHARGED | {"LastUpdateTime"}:
                    continue  # of the cycle; its charge is looked at below
                if (old, name) == (None, "PriorityFactor"):
                    continue  # a default, written when it is read
                assert new == old, (number, key, name)


def test_each_customer_is_charged_from_the_moment_of_the_merge_and_not_a_second_more_or_less(loaded):
    charged = 0
    for number, (merged, now, _, _) in loaded[0].items():
        gap_s = int(now["Accountant."]["LastUpdateTime"]) - int(merged["Accountant."]["LastUpdateTime"])
        assert 0 < gap_s < 200, number
        names = customers_of(merged)
        uses = uses_of(claims_of(merged), Groups({*names, "<none>", "phys", "phys.hep"}))
        for customer in names:
            ad, use, later = merged[f"Customer.{customer}"], uses.get(customer), now[f"Customer.{customer}"]
            charged += use is not None and use.slots > 0
            for name, rate in (
                ("AccumulatedUsage", use.slots * MICRO if use else 0),
                ("WeightedAccumulatedUsage", use.weight if use else 0),
            ):
                expected = micro(ad.get(name)) + rate * gap_s
                assert abs(micro(later.get(name)) - expected) <= 10, (number, customer, name)
    assert charged > 20


def shown_by(printed: str) -> dict[str, dict[str, str]]:
    """Name -> attribute -> text, of condor_userprio -long."""
    by_number: dict[str, dict[str, str]] = {}
    for line in printed.splitlines():
        name, equals, value = line.partition(" = ")
        stem = name.rstrip("0123456789")
        if equals and stem != name:
            by_number.setdefault(name[len(stem) :], {})[stem] = value
    return {ad["Name"].strip('"'): ad for ad in by_number.values()}


def test_condor_userprio_shows_each_users_factor_ceiling_floor_and_usage(loaded):
    seen = 0
    for number, (merged, now, _, said) in loaded[0].items():
        shown = shown_by(said["userprio"])
        for customer in customers_of(merged):
            ad, later = merged[f"Customer.{customer}"], now[f"Customer.{customer}"]
            line = shown[customer.encode(errors="surrogateescape").decode("latin-1")]
            for name, default in (("Ceiling", "-1"), ("Floor", "0")):
                value = ad.get(name, default)
                if "@" in customer and value.lstrip("-").isdecimal():
                    wanted = value if int(value) >= 0 else default
                    assert line[name] == wanted, (number, customer, name)
            factor = float(later["PriorityFactor"]) if later.get("PriorityFactor", "x")[0].isdecimal() else 0.0
            if "@" in customer and factor >= 1:
                assert float(line["PriorityFactor"]) == pytest.approx(factor, rel=1e-6), (number, customer)
                assert float(line["Priority"]) == pytest.approx(float(later["Priority"]) * factor, rel=1e-5)
            for name in ("AccumulatedUsage", "WeightedAccumulatedUsage"):
                if name in later:
                    used = micro(later[name]) / MICRO
                    assert float(line[name]) == pytest.approx(used, rel=1e-6, abs=1e-3), (number, customer, name)
            seen += 1
    assert seen > 600


def test_the_values_that_a_merge_asks_this_pool_for_are_htcondors_own(loaded):
    assert pool_from(loaded[1]) == Pool()
