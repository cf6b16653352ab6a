"""Fixtures of the guard's tests; what they are made of is in guard_harness.py."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from guard_harness import Guarded, Peer


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    with made.socket:
        yield made


@pytest.fixture
def guard() -> Iterator[Callable[..., Guarded]]:
    """Start guards; they are ended with the test."""
    started: list[Guarded] = []

    def start(**spec: Any) -> Guarded:
        started.append(Guarded(**spec))
        return started[-1]

    yield start
    for each in started:
        each.end()
