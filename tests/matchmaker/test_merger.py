"""The merger: histories merged in a process of its own; what it answers, what it writes, and how it ends."""

import contextlib
import json
import os
import random
import signal
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from gateway.core.reconcile import Pool, Side, reconcile
from gateway.matchmaker import merge_work, merger
from gateway.matchmaker.histories import History
from gateway.matchmaker.merge_letters import Begin
from gateway.matchmaker.merger import MergeFailed, MergeReason, Outcome, Story, open_merger
from gateway.wire.accountant import State, read_untrusted, scan_untrusted
from gateway.wire.compacted import compact
from tests.core.negotiating import MICRO, START_S, Negotiator, new_state
from tests.core.test_reconcile_goes_on import gone_on
from tests.core.test_reconcile_laws import some_world

ALICE, BOB = "alice@lab", "bob@lab"
KEY = "Resource.slot1@h@<h:1>"
BIRTH_S = 1_700_000_000


def write(path: Path, state: State, sequence: int = 3) -> Path:
    path.write_bytes(b"".join(compact(state, sequence, BIRTH_S)))
    return path


def append(path: Path, *records: str) -> None:
    with path.open("a", errors="surrogateescape") as file:
        file.writelines(f"{record}\n" for record in records)


def begun() -> Negotiator:
    one = Negotiator(new_state())
    one.customer(ALICE).update(Priority="5.000000", WeightedAccumulatedUsage="3600.000000", PriorityFactor="1000.0")
    one.customer(BOB).update(Priority="0.500000", WeightedAccumulatedUsage="60.000000", Ceiling="7")
    return one


def aged(seconds: int) -> Negotiator:
    one = begun()
    one.update(START_S + seconds)
    return one


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ours only aged; theirs has charged two users and edited one."""
    write(tmp_path / "base", begun().state)
    write(tmp_path / "ours", aged(60).state)
    theirs = aged(30)
    theirs.customer(BOB).update(WeightedAccumulatedUsage="1860.000000", Ceiling="9")
    theirs.customer("carol@lab").update(Priority="0.5", WeightedAccumulatedUsage="5.000000")
    write(tmp_path / "theirs", theirs.state)
    return tmp_path


def opened(folder: Path, pool: Pool | None = None, base: str | None = "base", **limits: int):
    return open_merger(
        None if base is None else folder / base,
        Story(name="cm1", path=str(folder / "ours"), term=9),
        [Story(name="cm2", path=str(folder / "theirs"), term=8)],
        folder / "out",
        pool or Pool(),
        **limits,
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def merged_anew(folder: Path, base: str = "base") -> State:
    sides: list[Side] = []
    for name, file, term in (("base", base, 0), ("cm1", "ours", 9), ("cm2", "theirs", 8)):
        history = History(folder / file)
        history.close()
        side = history.side(name, since_s=sides[0].updated_s if sides else 0)
        sides.append(msgspec.structs.replace(side, term=term, birthdate_s=BIRTH_S))
    return reconcile(sides[0], sides[1:]).state


# -- in its own process -----------------------------------------------------------------------------------------------


async def test_a_rehearsal_says_what_would_come_and_writes_only_the_reports(folder):
    async with opened(folder) as merger:
        outcome = await merger.rehearse()
    assert outcome.changes_ours
    assert (outcome.edits, outcome.conflicts, outcome.customers) == (1, 0, 3)
    assert outcome.usage_added == pytest.approx(1805)
    assert outcome.summary.startswith("cm1 and cm2 merged, cm1 survives: 2 customers touched, 1 edits, 0 of them")
    assert outcome.summary.endswith("cm1 gains 0.50 slot-hours")
    assert names(folder) == {"base", "ours", "theirs", "out.report.json", "out.report.txt"}


async def test_the_finished_file_holds_what_ours_wrote_after_the_rehearsal(folder):
    async with opened(folder) as merger:
        await merger.rehearse()
        append(
            folder / "ours",
            "105 ",
            f"103 Customer.{ALICE} WeightedAccumulatedUsage 3700.000000",
            "101 Customer.dave@lab * *",
            "103 Customer.dave@lab Floor 2",
            "106 ",
        )
        outcome = await merger.finish()
    assert names(folder) == {"base", "ours", "theirs", "out", "out.report.json", "out.report.txt"}
    state = read_untrusted((folder / "out").read_bytes())
    assert state == merged_anew(folder)
    assert state["Customer.dave@lab"]["Floor"] == "2"
    assert state[f"Customer.{ALICE}"]["WeightedAccumulatedUsage"] == "3700.000000"
    assert state[f"Customer.{BOB}"]["Ceiling"] == "9"
    assert outcome.customers == 4


async def test_the_result_is_for_its_owner_only_and_its_reports_too(folder):
    async with opened(folder) as merger:
        await merger.finish()
    for name in ("out", "out.report.json", "out.report.txt"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


async def test_the_reports_are_of_the_merge_that_was_finished(folder):
    async with opened(folder) as merger:
        await merger.rehearse()
        append(folder / "ours", f"103 Customer.{BOB} Ceiling 3")
        outcome = await merger.finish()
    report = json.loads((folder / "out.report.json").read_bytes())
    assert [edit["values"] for edit in report["edits"]] == [{"cm1": "3", "cm2": "9"}]
    assert outcome.conflicts == 1
    text = (folder / "out.report.txt").read_text()
    assert "CONFLICTS" in text
    assert "balance: exact" in text


async def test_names_that_are_not_utf8_are_merged_and_reported(folder):
    append(folder / "theirs", "101 Customer.ren\udce9@lab * *", "103 Customer.ren\udce9@lab AccumulatedUsage 9.000000")
    async with opened(folder) as merger:
        await merger.finish()
    assert "Customer.ren\udce9@lab" in read_untrusted((folder / "out").read_bytes())
    assert "ren\udce9@lab" in (folder / "out.report.json").read_text(errors="surrogateescape").encode().decode(
        "unicode_escape"
    )


async def test_without_a_common_base_both_began_from_nothing(folder):
    async with opened(folder, base=None) as merger:
        outcome = await merger.finish()
    state = read_untrusted((folder / "out").read_bytes())
    assert state[f"Customer.{ALICE}"]["WeightedAccumulatedUsage"] == "7200.000000"
    assert outcome.usage_added == pytest.approx(3600 + 1860 + 5)


async def test_the_process_is_behind_all_others_and_ends_first_where_memory_ends(folder):
    async with opened(folder) as merger:
        await merger.rehearse()
        assert os.sched_getscheduler(merger.pid) == os.SCHED_OTHER
        assert os.getpriority(os.PRIO_PROCESS, merger.pid) >= 10
        assert oom_score(merger.pid) == 1000


@pytest.mark.kernel
async def test_a_process_made_in_real_time_does_not_stay_there(folder):
    code = (
        "import os, runpy, sys; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)); "
        "from gateway.matchmaker import merging; merging.step_back(); print(os.sched_getscheduler(0) == os.SCHED_OTHER)"
    )
    done = await trio.run_process([sys.executable, "-c", code], capture_stdout=True)
    assert done.stdout == b"True\n"


@pytest.mark.kernel
async def test_while_it_finishes_the_process_is_behind_nobody(folder):
    """The pool has no negotiator then."""
    code = (
        "import os; from types import SimpleNamespace as Work; from gateway.matchmaker import merge_work\n"
        "def fail(): print(os.getpriority(os.PRIO_PROCESS, 0)); raise merge_work.MergeFailed('too-slow', '')\n"
        "os.nice(10); work = Work(rehearse=fail, finish=fail, forget=lambda: None)\n"
        "for order in (merge_work.Rehearse(), merge_work.Finish()): merge_work._carry_out(work, order)\n"
    )
    done = await trio.run_process([sys.executable, "-c", code], capture_stdout=True)
    assert done.stdout == b"10\n0\n"


async def test_the_process_is_gone_when_the_merge_is_left(folder):
    async with opened(folder) as merger:
        await merger.rehearse()
        pid = merger.pid
    assert not lives(pid)


async def test_a_cancelled_merge_leaves_no_process_and_no_draft(folder):
    pid = 0
    with trio.CancelScope() as scope:
        async with opened(folder) as merger, trio.open_nursery() as nursery:
            await merger.rehearse()
            pid = merger.pid
            os.kill(pid, signal.SIGSTOP)
            nursery.start_soon(merger.finish)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert not lives(pid)
    assert names(folder) == {"base", "ours", "theirs", "out.report.json", "out.report.txt"}


async def test_a_process_that_takes_too_long_is_given_up(folder):
    async with opened(folder, finish_ms_max=50) as merger:
        await merger.rehearse()
        os.kill(merger.pid, signal.SIGSTOP)
        with pytest.raises(MergeFailed) as failed:
            await merger.finish()
        assert failed.value.reason is MergeReason.TOO_SLOW
        assert failed.value.detail == "the merge took longer than 50 ms and was given up"
    assert "out" not in names(folder)


async def test_a_process_that_dies_is_a_named_failure(folder):
    async with opened(folder) as merger:
        await merger.rehearse()
        os.kill(merger.pid, signal.SIGKILL)
        with pytest.raises(MergeFailed) as failed:
            await merger.finish()
        assert failed.value.reason is MergeReason.CHILD_DIED
        assert failed.value.detail == "the process that merges was killed by signal 9"
    assert "out" not in names(folder)


async def test_a_process_that_cannot_be_started_is_a_named_failure(folder, monkeypatch):
    monkeypatch.setattr(merger.sys, "executable", "/nowhere/python")
    with pytest.raises(MergeFailed, match="child-died: no process can be started: No such file or directory"):
        async with opened(folder):
            pass


def test_the_process_ends_with_its_parent_in_the_midst_of_a_merge(folder):
    """As after SIGKILL: the parent's end of the pipe is closed, and nobody reads the answer."""
    for number in range(20_000):
        append(folder / "base", f"101 Customer.u{number}@lab * *", f"103 Customer.u{number}@lab Floor {number}")
    ours = Story(name="a", path=str(folder / "ours"))
    order = Begin(str(folder / "base"), ours, [Story(name="b", path=str(folder / "theirs"))], str(folder / "o"), Pool())
    with subprocess.Popen(
        [sys.executable, "-m", "gateway.matchmaker.merging"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdin.write(msgspec.json.encode(order) + b'\n{"type":"Rehearse"}\n')
        child.stdin.close()
        assert child.wait(timeout=20) == merge_work.PARENT_GONE
        assert child.stdout.read() == b""
    assert "o" not in names(folder)


def test_the_process_ends_well_when_it_has_finished(folder):
    ours = Story(name="a", path=str(folder / "ours"))
    theirs = Story(name="b", path=str(folder / "theirs"))
    order = Begin(str(folder / "base"), ours, [theirs], str(folder / "out"), Pool())
    with subprocess.Popen(
        [sys.executable, "-m", "gateway.matchmaker.merging"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        child.stdin.write(msgspec.json.encode(order) + b'\n{"type":"Finish"}\n')
        child.stdin.flush()
        assert b'"Done"' in child.stdout.read()
        assert child.wait(timeout=20) == 0
        assert child.stderr.read() == b""
    assert {"out", "out.report.json", "out.report.txt"} <= names(folder)


# -- what it answers, in this process ---------------------------------------------------------------------------------


def work_on(folder: Path, base: str | None = "base", **ours: object) -> merge_work.Work:
    return merge_work.Work(
        Begin(
            None if base is None else str(folder / base),
            Story(name="cm1", path=str(folder / "ours"), term=9, **ours),
            [Story(name="cm2", path=str(folder / "theirs"), term=8)],
            str(folder / "out"),
            Pool(),
        )
    )


def rehearsed(folder: Path, ours: State, theirs: State) -> Outcome:
    write(folder / "ours", ours)
    write(folder / "theirs", theirs)
    work = work_on(folder)
    try:
        return work.rehearse()
    finally:
        work.forget()


def test_what_time_does_alone_is_no_change(folder):
    for seconds in (30, 60, 90):
        outcome = rehearsed(folder, aged(60).state, aged(seconds).state)
        assert not outcome.changes_ours, seconds
        assert outcome.usage_added == 0


def test_matches_and_derived_counters_are_no_change(folder):
    """The survivor's matches go on until the merge; that charge its own negotiator makes as well."""
    base = begun()
    base.cycle(START_S, {KEY: (ALICE, MICRO)})
    write(folder / "base", base.state)
    ours, theirs = Negotiator(base.state), Negotiator(base.state)
    ours.cycle(START_S + 60, {KEY: (ALICE, MICRO)})
    theirs.state["Accountant."]["LastUpdateTime"] = str(START_S + 80)
    for name in list(theirs.state):
        if name.startswith("Resource."):
            del theirs.state[name]
    theirs.customer(ALICE).update(ResourcesUsed="0", WeightedResourcesUsed="0.000000")
    outcome = rehearsed(folder, ours.state, theirs.state)
    assert outcome.usage_added == 0
    assert not outcome.changes_ours


@pytest.mark.parametrize(("seconds", "changes"), [("0.900000", False), ("1.000000", True)])
def test_a_slot_second_of_usage_is_a_change_and_less_is_none(folder, seconds, changes):
    theirs = aged(30)
    theirs.customer(BOB)["WeightedAccumulatedUsage"] = str(60 + float(seconds)) + "00000"
    assert rehearsed(folder, aged(60).state, theirs.state).changes_ours is changes


def edited(**attributes: str) -> State:
    one = aged(30)
    one.customer(BOB).update(attributes)
    return one.state


@pytest.mark.parametrize(
    "theirs",
    [
        edited(Ceiling="8"),
        edited(Floor="1"),
        edited(PriorityFactor="5.0"),
        edited(Priority="700.000000"),
        edited(Future="1"),
        edited(Ceiling="8", CeilingLeaseExpiration=str(START_S + 9000), CeilingPreLeaseValue="7"),
        edited(BeginUsageTime=str(START_S + 5), WeightedAccumulatedUsage="0.000000"),
        {**aged(30).state, "Customer.carol@lab": {"Priority": "0.500000"}},
        {key: ad for key, ad in aged(30).state.items() if key != f"Customer.{BOB}"},
        {**aged(30).state, "Future.x": {"A": "1"}},
    ],
    ids=["ceiling", "floor", "factor", "setprio", "unknown", "lease", "reset", "added", "deleted", "other table"],
)
def test_any_edit_of_theirs_is_a_change(folder, theirs):
    assert rehearsed(folder, aged(60).state, theirs).changes_ours


@pytest.mark.parametrize(
    "ours", [edited(Ceiling="8"), edited(Future="1"), {**aged(30).state, "Customer.carol@lab": {"Floor": "1"}}]
)
def test_an_edit_of_ours_alone_changes_nothing_for_us(folder, ours):
    assert not rehearsed(folder, ours, aged(60).state).changes_ours


def test_a_conflict_that_we_win_changes_nothing_for_us(folder):
    outcome = rehearsed(folder, edited(Ceiling="8"), edited(Ceiling="9"))
    assert (outcome.changes_ours, outcome.conflicts) == (False, 1)


@pytest.mark.parametrize("attributes", [{"PriorityFactor": "1000.000000"}, {"Floor": "0"}, {"MyType": '"*"'}])
def test_a_default_that_was_written_when_it_was_read_is_no_change(folder, attributes):
    assert not rehearsed(folder, aged(60).state, edited(**attributes)).changes_ours


def test_a_lease_that_has_run_out_on_both_sides_is_no_change(folder):
    leased = {"Ceiling": "8", "CeilingLeaseExpiration": str(START_S + 10), "CeilingPreLeaseValue": "7"}
    base = begun()
    base.customer(BOB).update(leased)
    write(folder / "base", base.state)
    undone = aged(60)
    undone.customer(BOB).update(leased, Ceiling="7", CeilingLeaseExpiration="0")
    lapsed = Negotiator(base.state)
    lapsed.update(START_S + 30)
    assert not rehearsed(folder, lapsed.state, undone.state).changes_ours


def test_where_we_never_went_on_all_of_theirs_is_new(folder):
    outcome = rehearsed(folder, begun().state, edited(Ceiling="8"))
    assert outcome.changes_ours
    assert outcome.summary.startswith("only cm2 went on from the base")


def test_where_they_never_went_on_nothing_is_new(folder):
    outcome = rehearsed(folder, edited(Ceiling="8"), begun().state)
    assert not outcome.changes_ours
    assert outcome.summary == "only cm1 went on from the base: it is taken as it is; nothing is new to cm1"


def test_what_we_have_come_to_by_ourselves_is_no_change_any_more(folder):
    write(folder / "theirs", edited(Ceiling="9"))
    work = work_on(folder)
    assert work.rehearse().changes_ours
    append(folder / "ours", f"103 Customer.{BOB} Ceiling 9")
    assert not work.finish().changes_ours


# -- finishing --------------------------------------------------------------------------------------------------------


def test_what_is_finished_is_what_a_merge_of_the_last_files_gives(tmp_path):
    """40 worlds, in which ours goes on in every way while the rehearsal's result waits."""
    appended = 0
    for seed in range(40):
        draw = random.Random(seed)
        base, (ours, theirs) = some_world(seed)
        for name, side in (("base", base), ("ours", ours), ("theirs", theirs)):
            write(tmp_path / name, side.state)
        work = work_on(tmp_path)
        work.rehearse()
        shown = work._draft
        later = gone_on(draw, ours.state, draw.randrange(4))
        go_on(tmp_path / "ours", ours.state, later, anew=draw.random() < 0.2)
        catch_up, drafts = work._catch_up, []
        work._catch_up = lambda catch_up=catch_up, drafts=drafts: drafts.append(catch_up()) or drafts[-1]
        work.finish()
        appended += shown is not None and drafts[-1] is not None
        data = (tmp_path / "out").read_bytes()
        assert scan_untrusted(data).closed_length == len(data)
        assert lowered(read_untrusted(data)) == lowered(merged_anew(tmp_path)), seed
    assert appended > 10  # where a match of the base ends meanwhile, all is merged anew


def lowered(state: State) -> State:
    """Of several spellings a merge keeps one; which one, depends on all that was ever written."""
    return {key: {name.lower(): value for name, value in ad.items()} for key, ad in state.items()}


def go_on(path: Path, before: State, now: State, *, anew: bool) -> None:
    """Write what a negotiator would: the changes, in a transaction; or a compaction."""
    if anew:
        write(path.with_name("fresh"), now, sequence=4)
        path.with_name("fresh").replace(path)
        return
    records = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if new is None:
            records.append(f"102 {key}")
            continue
        records += [f"101 {key} * *"] if old is None else [f"104 {key} {name}" for name in old if name not in new]
        records += [f"103 {key} {name} {value}" for name, value in new.items() if (old or {}).get(name) != value]
    append(path, "105 ", *records, "106 ")


def test_a_transaction_that_was_open_at_the_rehearsal_is_merged_when_it_is_closed(folder):
    append(folder / "ours", "105 ", f"103 Customer.{BOB} Floor 4")
    work = work_on(folder)
    work.rehearse()
    append(folder / "ours", f"103 Customer.{ALICE} Floor 5", "106 ")
    work.finish()
    state = read_untrusted((folder / "out").read_bytes())
    assert (state[f"Customer.{BOB}"]["Floor"], state[f"Customer.{ALICE}"]["Floor"]) == ("4", "5")


def test_a_transaction_that_is_never_closed_is_left_out(folder):
    work = work_on(folder)
    work.rehearse()
    append(folder / "ours", f"103 Customer.{ALICE} Floor 5", "105 ", f"103 Customer.{BOB} Floor 4")
    work.finish()
    state = read_untrusted((folder / "out").read_bytes())
    assert "Floor" not in state[f"Customer.{BOB}"]
    assert state[f"Customer.{ALICE}"]["Floor"] == "5"


def test_a_rehearsal_catches_up_with_what_was_written_meanwhile(folder, monkeypatch):
    """What is left for the time without a negotiator is what was written after it."""
    work = work_on(folder)
    many = [f"101 Customer.u{number}@lab * *\n103 Customer.u{number}@lab Floor 2" for number in range(2_000)]
    later = iter([many, [f"103 Customer.{BOB} Floor 3"]])
    write_draft = work._write_draft
    bring = work._bring_draft_to
    monkeypatch.setattr(work, "_write_draft", lambda: write_draft() or append(folder / "ours", *next(later)))
    monkeypatch.setattr(
        work, "_bring_draft_to", lambda fresh: bring(fresh) or append(folder / "ours", *next(later, []))
    )
    assert work.rehearse().customers == 2_003
    assert work._catch_up() == set()
    work.finish()
    state = read_untrusted((folder / "out").read_bytes())
    assert (state[f"Customer.{BOB}"]["Floor"], state["Customer.u7@lab"]["Floor"]) == ("3", "2")


def test_a_negotiator_that_writes_without_end_is_not_waited_for(folder, monkeypatch):
    work = work_on(folder)
    monkeypatch.setattr(merge_work, "LITTLE", 0)
    catch_up, times = work._catch_up, []

    def once_more():
        append(folder / "ours", f"103 Customer.{BOB} Note {len(times)}")
        times.append(1)
        return catch_up()

    monkeypatch.setattr(work, "_catch_up", once_more)
    work.rehearse()
    assert len(times) == merge_work.CATCH_UPS_MAX
    work.forget()


@pytest.mark.parametrize("name", ["base", "theirs"])
def test_another_file_that_has_changed_is_read_again(folder, name):
    work = work_on(folder)
    work.rehearse()
    append(folder / name, f"103 Customer.{ALICE} Note 4")
    work.finish()
    assert read_untrusted((folder / "out").read_bytes()) == merged_anew(folder)


def test_a_file_of_ours_that_was_not_only_appended_to_is_read_again(folder):
    work = work_on(folder)
    work.rehearse()
    ours = (folder / "ours").read_bytes().replace(b"Ceiling 7", b"Ceiling 3")
    (folder / "ours").write_bytes(ours + f"103 Customer.{ALICE} Floor 4\n".encode())
    work.finish()
    assert read_untrusted((folder / "out").read_bytes()) == merged_anew(folder)


def test_a_compaction_in_the_midst_of_a_file_is_read_again(folder):
    work = work_on(folder)
    work.rehearse()
    append(folder / "ours", f"107 8 CreationTimestamp {BIRTH_S}")
    work.finish()
    assert scan_untrusted((folder / "out").read_bytes()).sequence == 9


def test_finishing_without_a_rehearsal_does_all_of_it(folder):
    work_on(folder).finish()
    assert read_untrusted((folder / "out").read_bytes()) == merged_anew(folder)


def test_a_result_that_is_there_already_is_replaced(folder):
    (folder / "out").write_bytes(b"of an earlier merge")
    work_on(folder).finish()
    assert read_untrusted((folder / "out").read_bytes()) == merged_anew(folder)


# -- what can't be merged ---------------------------------------------------------------------------------------------


def refused(folder: Path, work: merge_work.Work, *, finish: bool = True) -> MergeFailed:
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(MergeFailed) as failed:
        (work.finish if finish else work.rehearse)()
    work.forget()
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    return failed.value


@pytest.mark.parametrize("finish", [False, True])
def test_a_corrupt_file_is_refused_with_its_byte(folder, finish):
    length = (folder / "theirs").stat().st_size
    append(folder / "theirs", "103 nonsense", "106 ")
    failure = refused(folder, work_on(folder), finish=finish)
    assert failure.reason is MergeReason.CORRUPT
    assert f"theirs' is corrupt at byte {length}: '103 nonsense'" in failure.detail


def test_a_record_of_ours_that_is_corrupt_after_the_rehearsal_is_refused(folder):
    work = work_on(folder)
    work.rehearse()
    drafts = {path.name for path in folder.iterdir()}
    length = (folder / "ours").stat().st_size
    append(folder / "ours", "103 nonsense", "106 ")
    with pytest.raises(MergeFailed, match=f"corrupt: .*ours' is corrupt at byte {length}"):
        work.finish()
    work.forget()
    assert names(folder) == drafts - {".out.merging"}


def test_sides_of_another_pool_are_refused(folder):
    (folder / "theirs").write_bytes(b"".join(compact(aged(30).state, 3, 5)))
    failure = refused(folder, work_on(folder))
    assert failure.reason is MergeReason.NOT_CONTINUED
    assert "born 5, not" in failure.detail


def test_a_file_that_is_not_there_is_unreadable(folder):
    (folder / "theirs").unlink()
    failure = refused(folder, work_on(folder))
    assert (failure.reason, "does not exist" in failure.detail) == (MergeReason.UNREADABLE, True)


def test_an_output_in_no_folder_is_not_written(folder):
    order = work_on(folder)._order
    work = merge_work.Work(msgspec.structs.replace(order, out=str(folder / "missing" / "out")))
    assert refused(folder, work).reason is MergeReason.NOT_WRITTEN


@pytest.mark.kernel
def test_a_full_disk_is_a_named_failure_and_leaves_nothing(folder, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(small)], check=True)
    try:
        order = work_on(folder)._order
        append(folder / "theirs", *(f"103 Customer.{BOB} Note{number} 4" for number in range(400)))
        work = merge_work.Work(msgspec.structs.replace(order, out=str(small / "out")))
        with pytest.raises(MergeFailed, match=r"not-written: .* cannot be written: No space left on device"):
            work.finish()
        work.forget()
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


async def test_a_refusal_in_the_process_comes_back_with_its_reason(folder):
    (folder / "theirs").write_bytes(b"")
    async with opened(folder) as merger:
        with pytest.raises(MergeFailed, match="theirs' is empty") as failed:
            await merger.rehearse()
        assert failed.value.reason is MergeReason.UNREADABLE
        with contextlib.suppress(MergeFailed):
            write(folder / "theirs", edited(Ceiling="9"))
            assert (await merger.finish()).changes_ours  # it may be asked again


def test_until_when_a_match_was_charged_is_read_from_the_file(folder):
    """A negotiator charges up to LastUpdateTime, and then drops the matches that it sees no more."""
    write(folder / "ours", begun().state)
    before = History(folder / "ours")
    since_s = before.side("cm1").updated_s
    before.close()
    append(folder / "ours", f"103 Accountant. LastUpdateTime {since_s + 60}")
    append(folder / "ours", "102 Resource.slot1@exec9@<10.0.0.9:9618>")
    append(folder / "ours", f"103 Accountant. LastUpdateTime {since_s + 120}")
    append(folder / "ours", "102 Resource.slot1@exec9@<10.0.0.9:9618>")
    history = History(folder / "ours")
    history.close()
    assert history.dropped_after(since_s) == {"Resource.slot1@exec9@<10.0.0.9:9618>": since_s + 60}
    assert history.dropped_after(since_s + 60) == {"Resource.slot1@exec9@<10.0.0.9:9618>": since_s + 120}
    assert history.dropped_after(since_s + 120) == {}
