"""Fixtures of the kernel tests: a segment of their own, and a skip with a reason where there can be none."""

from collections.abc import Iterator

import pytest

from gateway.kernel.templates import templates
from tests.support import netns


@pytest.fixture(scope="session")
def _namespaces() -> None:
    reason = netns.usable()
    if reason is not None:
        pytest.skip(reason)
    templates()  # made here, once, for all the processes that are forked from this one


@pytest.fixture
def segment(_namespaces: None) -> Iterator[netns.Segment]:
    """A switch without hosts."""
    with netns.Segment() as made:
        yield made
