"""What the machines wrote, fetched before they are gone: when a scenario has failed, that is what tells why."""

import contextlib
from pathlib import Path

import trio

from gateway.lab.errors import LabError
from gateway.lab.machines.pool import MachinePool

FETCH_S_MAX = 60.0
_GATHER = """\
journalctl -q -b -u condor-gateway -o short-iso-precise --no-pager 2>&1 | tail -n 4000
for log in /var/log/condor/*Log; do echo; echo "==== $log"; tail -n 1500 "$log"; done 2>&1"""


async def fetch(pool: MachinePool, folder: Path) -> None:
    """Write a file for each machine that answers into `folder`."""
    place = trio.Path(folder)
    await place.mkdir(parents=True, exist_ok=True)

    async def one(name: str) -> None:
        with contextlib.suppress(LabError):
            done = await pool.exec(name, ["sh", "-c", _GATHER], timeout_s=FETCH_S_MAX)
            await (place / f"{name}.log").write_text(done.stdout)

    async with trio.open_nursery() as nursery:
        for node in pool.nodes:
            nursery.start_soon(one, node.name)
