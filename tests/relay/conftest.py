"""The fixture of the relay's tests; what they talk with is in relay_harness.py."""

import pytest
from relay_harness import Harness

from gateway.relay.client import open_relay


@pytest.fixture
async def harness():
    async with open_relay() as relay:
        yield Harness(relay)
