"""Labs for tests: a pool that is up and ready, and gone with the test whatever comes. One lab serves a whole module."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from gateway.lab.pool import Files, Lab
from gateway.lab.topology import Topology

READY_S_MAX = 90


@contextmanager
def running(topology: Topology, *, files: Files | None = None) -> Iterator[Lab]:
    """Bring a lab up, wait until its pool is ready, and take it down at the end. For fixtures that are not async."""

    async def up() -> Lab:
        made = await Lab.up(topology, files=files)
        try:
            await made.wait_ready(READY_S_MAX)
        except BaseException:
            await made.down()
            raise
        return made

    lab = trio.run(up)
    try:
        yield lab
    finally:
        trio.run(lab.down)
