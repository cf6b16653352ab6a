"""A file that is scanned and replayed at once is found as good, and says the same, as one after the other."""

import random

import pytest

from gateway.wire.accountant import Reading, Records, State, replay_untrusted, scan_untrusted
from gateway.wire.compacted import compact
from gateway.wire.errors import Malformed

BYTES_MAX = 1_000_000
VALUES = ("0", "0.500000", "-3.250000", '"two  words"', '"\\"quoted\\""', "1 + 2", "true", "1e5", "")
WRONG = (
    b"103 Customer.a@lab Priority 01\n",
    b"103 Customer.a@lab Priority\n",
    b"\n",
    b"106\n",
    b"107 2 CreationTimestamp 7\n",
    b"101 Customer.a@lab * *\n",
    b"101  Customer.b@lab *\n",
    b"101 Customer.c@lab *\t*\n",
    b"102 Customer.a@lab\n",
    b"103 Customer.a@lab  Priority 9\n",
    b"103 Customer.a@lab priority 9 \n",
    b"103 Customer.a@lab A\t9\n103 Customer.a@lab B 9 9\n",
    b"103 Customer.a@lab Priority 9\0\n",
    b"104 Customer.a@lab Priority\n",
    b"105 \n",
    b"106 \n",
    b"105 \n103 Customer.a@lab Priority 9\n106 \n",
    b"103 Accountant. LastUpdateTime 1800000000\n",
    b"103 Accountant. LastUpdateTime 1800000000",
    '103 Customer.a@lab Name "\u00e9"\n'.encode(),
    b"101 Customer.\xff@lab * *\n103 Customer.\xff@lab Priority 1\n",
)


def some_file(seed: int) -> bytes:
    draw = random.Random(seed)
    shapes = [("Priority", "Usage"), ("priority", "Usage"), ("Priority", "Usage", "Note"), ()]
    state: State = {"Accountant.": {"LastUpdateTime": "1800000000"}}
    for number in range(draw.randrange(1, 3_000)):
        note = draw.choice(VALUES[:-1]) if draw.random() < 0.1 else "7"
        names = shapes[0] if draw.random() < 0.9 else draw.choice(shapes)
        state[f"Customer.{number}@lab"] = {name: note if name == "Note" else str(draw.randrange(5)) for name in names}
    lines = b"".join(compact(state, 3, 1_700_000_000)).splitlines(keepends=True)
    for _ in range(draw.choice((0, 0, 1, 3))):
        lines.insert(draw.randrange(1, len(lines) + 1), draw.choice(WRONG))
    if draw.random() < 0.5:
        lines += [draw.choice(WRONG) for _ in range(draw.randrange(4))]
    data = b"".join(lines)
    return data[: -draw.randrange(1, 60)] if draw.random() < 0.2 else data


@pytest.mark.parametrize("seed", range(60))
def test_a_file_read_at_once_is_as_good_as_one_scanned_and_then_replayed(seed: int):
    alike: Records = {}
    for data in (some_file(seed), some_file(seed), some_file(seed + 1_000)):
        scan = scan_untrusted(data, BYTES_MAX)
        lines = data[: scan.closed_length].splitlines(keepends=True)
        for closed_length in (scan.closed_length, scan.closed_length - sum(map(len, lines[-1:]))):
            reading = Reading(data, BYTES_MAX, alike)
            assert reading.scan == scan
            state, replayed = reading.state(closed_length), replay_untrusted(data, closed_length)
            assert {key: list(ad.items()) for key, ad in state.items()} == {
                key: list(ad.items()) for key, ad in replayed.items()
            }
            assert list(state) == list(replayed)


def test_a_file_that_is_too_long_is_not_read():
    with pytest.raises(Malformed):
        Reading(b"101 a * *\n" * 10_000, 99_999)


def test_an_attribute_said_twice_is_two_records_in_each_file_that_says_so():
    ads = (f"101 {name} * *\n103 {name} Priority 1\n103 {name} Priority 2\n" for name in "abcde")
    data = "".join(ads).encode()
    alike: Records = {}
    for _ in range(2):
        reading = Reading(data, BYTES_MAX, alike)
        assert reading.scan == scan_untrusted(data)
        assert reading.state(len(data)) == {name: {"Priority": "2"} for name in "abcde"}
