"""Fixtures of the kernel tests: a segment of their own, and a skip with a reason where there can be none."""

from collections.abc import Iterator

import pytest

from tests.support import netns


@pytest.fixture(scope="session")
def _namespaces() -> None:
    reason = netns.usable()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def segment(_namespaces: None) -> Iterator[netns.Segment]:
    """A switch without hosts."""
    with netns.Segment() as made:
        yield made
