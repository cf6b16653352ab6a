"""Files that have most records alike hold them once in memory; nothing that one of them says is heard in another."""

from gateway.wire.accountant import Records, State, replay_untrusted
from gateway.wire.compacted import compact

ALICE, BOB = "Customer.alice@lab", "Customer.bob@lab"
BASE: State = {
    "Accountant.": {"LastUpdateTime": "1800000000"},
    ALICE: {"Priority": "0.500000", "Note": '"two words"'},
    BOB: {"Priority": "7.250000", "AccumulatedUsage": "60.000000"},
}


def file_of(state: State, *appended: str) -> bytes:
    return b"".join([*compact(state, 1, 1_700_000_000), *(line.encode() + b"\n" for line in appended)])


def replayed(data: bytes, alike: Records | None = None) -> State:
    return replay_untrusted(data, len(data), alike)


def test_a_record_written_alike_in_two_files_is_held_once():
    alike: Records = {}
    base, side = (replayed(file_of(state), alike) for state in (BASE, {**BASE, ALICE: {"Priority": "3.000000"}}))
    assert side[BOB] is base[BOB]
    assert side[ALICE] == {"Priority": "3.000000"}
    assert base == BASE


def test_what_a_file_says_later_of_a_record_stays_its_own():
    for line in (
        f"103 {BOB} Priority 9.000000",
        f"104 {BOB} Priority",
        f"101 {BOB} * *\n103 {BOB} Priority 9.000000",  # of two the first is kept
        f"105 \n103 {BOB} Priority 9.000000\n106 ",
        f"103  {BOB}  Priority 9.000000",
    ):
        alike: Records = {}
        data = file_of(BASE, line)
        base = replayed(file_of(BASE), alike)
        assert replayed(data, alike) == replayed(data) != BASE
        assert base == replayed(file_of(BASE), alike) == BASE


def test_a_shared_record_is_spelled_as_its_own_file_spells_it_first():
    alike: Records = {}
    replayed(file_of(BASE), alike)
    side = replayed(file_of({**BASE, ALICE: {"priority": "0.500000"}}), alike)
    assert [list(ad) for ad in side.values()] == [["LastUpdateTime"], ["priority"], ["priority", "AccumulatedUsage"]]
