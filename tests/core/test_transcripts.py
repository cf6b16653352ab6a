"""Each transcript still happens as it is written; `python -m tests.core.transcript --rewrite` writes them anew."""

from pathlib import Path

import pytest

from tests.core.transcript import TESTDATA, play


@pytest.mark.parametrize("path", sorted(TESTDATA.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    assert play(path.read_text()) == path.read_text()


def test_there_is_one_for_each_rule_and_each_complaint() -> None:
    assert len(list(TESTDATA.glob("*.txt"))) >= 25
