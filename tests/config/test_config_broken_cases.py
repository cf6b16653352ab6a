"""Small broken configurations, one change of the sample each, and every letter of what is said of them.

The cases stand in testdata/broken-cases.txt; whole files that an operator may read are in haproxy-like-config/broken.
"""

from pathlib import Path

import pytest
from config_files import BROKEN, ENVIRONMENT, sample

from gateway.config import load, render_all

CASES = (Path(__file__).parent / "testdata" / "broken-cases.txt").read_text(encoding="utf-8").split("\n=== ")[1:]


def lines_after(case, mark):
    return "\n".join(line[2:] for line in case.splitlines()[1:] if line.startswith(mark))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.splitlines()[0])
def test_broken_case_gets_its_answer_to_the_letter(case):
    text = sample((lines_after(case, "-"), lines_after(case, "+")))
    said = render_all(load(text, "x.cfg", ENVIRONMENT).diagnostics)
    assert [line.rstrip() for line in said.splitlines()] == lines_after(case, ">").splitlines()


def test_there_are_two_hundred_broken_configurations_and_sixty_of_them_are_files():
    files = list(BROKEN.glob("*.cfg"))
    assert len(files) >= 60
    assert len(files) + len(CASES) >= 200
    assert len({case.splitlines()[0] for case in CASES}) == len(CASES)
