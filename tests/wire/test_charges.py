"""An announced charge belongs to the transaction that follows it."""

import pytest

from gateway.wire.charges import TAIL_BYTES, Charges

FIRST = b"101 Accountant. * *\n103 Accountant. LastUpdateTime 100\n"
AGAIN = b"103 Accountant. LastUpdateTime 160\n"
AMOUNTS = b"105 \n103 Customer.alice@x AccumulatedUsage 60.000000\n106 \n"


def announced(data: bytes, piece: int = 1 << 20) -> int:
    charges = Charges()
    for start in range(0, len(data), piece):
        charges.feed(data[start : start + piece])
    return charges.announced(len(data), data[-TAIL_BYTES:])


def test_an_update_with_nothing_behind_it_is_an_announcement() -> None:
    assert announced(FIRST + AMOUNTS + AGAIN) == len(AGAIN)


def test_an_update_with_its_amounts_behind_it_is_none() -> None:
    assert announced(FIRST + AGAIN + AMOUNTS) == 0


def test_the_only_update_of_a_compacted_file_is_none() -> None:
    assert announced(b"107 2 CreationTimestamp 50\n" + FIRST) == 0


@pytest.mark.parametrize("piece", [1, 7, 31, 64])
def test_pieces_may_be_cut_anywhere(piece: int) -> None:
    assert announced(FIRST + AMOUNTS + AGAIN, piece) == len(AGAIN)
    assert announced(FIRST, piece) == 0


def test_what_only_looks_alike_is_none() -> None:
    assert announced(FIRST + b"103 Customer.x 103 Accountant. LastUpdateTime 160\n") == 0
