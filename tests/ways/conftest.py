"""Fixtures: one pool for each way to forward, shared by all tests of this folder, which are sorted by it."""

import resource
from collections.abc import Iterator

import pytest

from gateway.kernel.templates import templates
from tests.support import netns
from tests.ways.composed import Pool
from tests.ways.hosts import WAYS

DESCRIPTORS = 8_192  # a thousand flows have two ends here


@pytest.fixture(scope="package")
def _descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, DESCRIPTORS)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="package", params=WAYS)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _descriptors: None
) -> Iterator[Pool]:
    if (reason := netns.usable()) is not None:
        pytest.skip(reason)
    templates()  # made here, once, for all the processes that are forked from this one
    with netns.Segment("cgy") as segment:
        made = Pool(segment, tmp_path_factory.mktemp(request.param), WAYS[request.param])
        yield made
        made.close()


@pytest.fixture
def pool(running: Pool) -> Pool:
    """The first manager is elected."""
    running.elect("cm1")
    return running
