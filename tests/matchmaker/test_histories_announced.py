"""A charge that a file only announces was not made: it is left to who goes on from there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.matchmaker.histories import History

FILE = b"107 1 CreationTimestamp 1\n101 Accountant. * *\n103 Accountant. LastUpdateTime 1000\n101 Customer.a@x * *\n"
ANNOUNCED = b"103 Accountant. LastUpdateTime 2000\n"
CHARGED = b"105 \n103 Customer.a@x WeightedAccumulatedUsage 7.000000\n106 \n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "Accountantnew.log"
    path.write_bytes(FILE)
    return path


@pytest.fixture
def history(path: Path) -> Iterator[History]:
    history = History(path)
    yield history
    history.close()


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def updated(history: History) -> str:
    return history.state["Accountant."]["LastUpdateTime"]


def test_a_file_that_ends_in_an_announcement_was_charged_up_to_the_time_before(path: Path) -> None:
    append(path, ANNOUNCED)
    history = History(path)
    history.close()
    assert updated(history) == "1000"


def test_a_file_with_one_update_alone_was_charged_up_to_that(tmp_path: Path) -> None:
    path = tmp_path / "compacted"
    path.write_bytes(b"107 1 CreationTimestamp 1\n101 Accountant. * *\n103 Accountant. LastUpdateTime 1000\n")
    history = History(path)
    history.close()
    assert updated(history) == "1000"


def test_an_appended_announcement_is_left_out(path: Path, history: History) -> None:
    append(path, CHARGED + ANNOUNCED)
    tail = history.appended()
    assert tail is not None
    assert tail.changes.keys() == {"Customer.a@x"}
    assert updated(history) == "1000"


@pytest.mark.parametrize("looks", [0, 1])
def test_an_announcement_counts_as_soon_as_its_charge_follows(path: Path, looks: int) -> None:
    append(path, ANNOUNCED)
    history = History(path)
    for _ in range(looks):  # while it stands alone
        assert history.appended() is not None
    append(path, CHARGED)
    tail = history.appended()
    history.close()
    assert tail is not None
    assert tail.changes.keys() == {"Accountant.", "Customer.a@x"}
    assert updated(history) == "2000"


def test_an_announcement_behind_a_torn_charge_still_does_not_count(path: Path, history: History) -> None:
    append(path, ANNOUNCED + CHARGED[: CHARGED.index(b"106 ")])
    tail = history.appended()
    assert tail is not None
    assert tail.changes == {}
    assert updated(history) == "1000"
    append(path, b"106 \n")
    assert history.appended() is not None
    assert updated(history) == "2000"
