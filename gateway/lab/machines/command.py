"""`python -m gateway.lab.machines`: the lab on virtual machines, from the command line. Errors are one sentence each.

`lab` is everything: up, the scenarios, the table, down, whatever happens in between. Exit status: 0 every check was
good, 1 one was not or nothing could be done, 130 interrupted.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

import trio

from gateway.lab.errors import LabError
from gateway.lab.machines import bringup, evidence, inventory, logs, proof, series, shell
from gateway.lab.machines.evidence import ADDRESS, MATCHMAKER
from gateway.lab.machines.inventory import FOLDER, Inventory
from gateway.lab.machines.pool import MachinePool
from gateway.lab.machines.scenarios import SCENARIOS
from gateway.lab.machines.series import Progress

OK, REFUSED, INTERRUPTED = 0, 1, 130
DOWN_S_MAX = 300.0
TABLE = FOLDER / "table.md"
TABLES = (TABLE, FOLDER / "table.json")

_Command = Callable[[argparse.Namespace, Progress], Awaitable[int]]

LOOK = """\
The virtual machines are up: {names}. Look at them:
  python -m gateway.lab.machines status
  python -m gateway.lab.machines ssh {submit} condor_status
  python -m gateway.lab.machines ssh {manager}
  python -m gateway.lab.machines scenario manager-cut
End them:
  make vagrant-down"""


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command; return the exit status."""
    chosen = _parser().parse_args(argv)
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # which 'su' leaves out
    if chosen.function is _login:
        return _refusing(lambda: _login(chosen))
    return _refusing(lambda: trio.run(_interruptible, chosen))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gateway.lab.machines", description="the lab's pool on virtual machines; see vagrant/README.md"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, function, text in (
        ("lab", _lab, "everything: bring machines up, run scenarios, print the table, take everything away"),
        ("scenario", _scenario, "run scenarios on machines that are up"),
    ):
        one = commands.add_parser(name, help=text, description=text)
        one.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCENARIOS)} (default: all)")
        one.set_defaults(function=function)
    for name, function, text in (
        ("up", _up, "bring machines up and leave them"),
        ("down", _down, "take everything away that is there of them"),
        ("status", _status, "show what is up, and who leads"),
    ):
        commands.add_parser(name, help=text, description=text).set_defaults(function=function)
    login = commands.add_parser("ssh", help="log in as root, or run a command", description="log in as root")
    login.add_argument("host", metavar="HOST")
    login.add_argument("argv", nargs=argparse.REMAINDER, metavar="CMD")
    login.set_defaults(function=_login)
    return parser


def _refusing(function: Callable[[], int]) -> int:
    try:
        return function()
    except* LabError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        print(f"vagrant-lab: {error}", file=sys.stderr)
    return REFUSED


async def _interruptible(chosen: argparse.Namespace) -> int:
    """Run a command; SIGINT, SIGTERM and SIGHUP cancel it, so that it takes away what it has made."""
    status = INTERRUPTED
    function: _Command = _alone(chosen.function) if chosen.function is not _status else chosen.function
    async with trio.open_nursery() as nursery:

        async def cancel_at_signal() -> None:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP, signal.SIGINT) as signals:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

        nursery.start_soon(cancel_at_signal)
        status = await function(chosen, series.clocked(time.time(), lambda text: print(text, flush=True)))
        nursery.cancel_scope.cancel()
    return status


def _alone(function: "_Command") -> "_Command":
    """Let no other command that changes the machines run beside this one."""

    async def run(chosen: argparse.Namespace, say: Progress) -> int:
        with bringup.only_one():
            return await function(chosen, say)

    return run


async def _lab(chosen: argparse.Namespace, say: Progress) -> int:
    scenarios = series.chosen(chosen.names)
    began = time.time()
    for file in TABLES:
        file.unlink(missing_ok=True)
    good = False
    try:
        there = await bringup.up(say)
        say(f"{len(there.machines)} machines are up after {time.time() - began:.0f} s")
        good = await _run(there, [one.name for one in scenarios], say, began)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + DOWN_S_MAX) as ending:
            await bringup.down(say)
        if ending.cancelled_caught:
            raise LabError(f"not everything is gone after {DOWN_S_MAX} s: run 'make vagrant-down'")
    _show(f"Everything took {_minutes(time.time() - began)}.")
    return OK if good else REFUSED


async def _scenario(chosen: argparse.Namespace, say: Progress) -> int:
    there = inventory.read()
    good = await _run(there, chosen.names, say, None)
    _show("")
    return OK if good else REFUSED


async def _run(there: Inventory, names: Sequence[str], say: Progress, began: float | None) -> bool:
    """Run scenarios on what is up. What the machines wrote is fetched where one failed."""
    up_after = "" if began is None else f", up after {_minutes(time.time() - began)}"
    heading = f"{len(there.machines)} virtual machines, {there.accelerator.upper()}{up_after}."
    keep = series.keeper(FOLDER, heading)
    async with MachinePool.opened(there) as pool:
        failed: LabError | None = None
        try:
            if await series.run(pool, series.chosen(names), say, keep):
                return True
        except LabError as error:
            failed = error
        say(f"what the machines wrote is fetched into {FOLDER / 'failed'}")
        with trio.move_on_after(logs.FETCH_S_MAX):
            await logs.fetch(pool, FOLDER / "failed")
        if failed is not None:
            raise failed
    return False


def _show(last: str) -> None:
    """Print the table, with a last line that stays in it."""
    if not TABLE.exists():
        return
    if last:
        with TABLE.open("a") as file:
            file.write(f"\n{last}\n")
    print(f"\n{TABLE.read_text()}", flush=True)


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d} min"


async def _up(chosen: argparse.Namespace, say: Progress) -> int:
    there = await bringup.up(say)
    if there.provider == "libvirt":
        async with MachinePool.opened(there) as pool:
            await proof.Prover(pool, say).prove(None, series.FIRST_S_MAX)
    names = [machine.name for machine in there.machines]
    submit = next(machine.name for machine in there.machines if "submit" in machine.roles)
    manager = next(machine.name for machine in there.machines if "manager" in machine.roles)
    print(LOOK.format(names=" ".join(names), submit=submit, manager=manager))
    return OK


async def _down(chosen: argparse.Namespace, say: Progress) -> int:
    if not await bringup.down(say):
        say("there was nothing")
    return OK


async def _status(chosen: argparse.Namespace, say: Progress) -> int:
    there = inventory.read()
    async with MachinePool.opened(there) as pool:
        said = await proof.documents(pool)
        states = {machine.name: await pool.power(machine.name) for machine in there.machines}
    print(f"{'HOST':<10} {'ADDRESS':<14} {'STATE':<9} {'ROLES':<24} LEADS")
    for machine in there.machines:
        own = {machine.name: said.get(machine.name)}
        leads = [kind for kind in (ADDRESS, MATCHMAKER) if evidence.leaders(own, kind)]
        roles = " ".join(machine.roles)
        print(
            f"{machine.name:<10} {machine.address:<14} {states[machine.name]:<9} {roles:<24} {' '.join(leads)}".rstrip()
        )
    return OK


def _login(chosen: argparse.Namespace) -> int:
    line = shell.entering(inventory.read(), chosen.host, chosen.argv)
    sys.stdout.flush()
    os.execvp(line[0], line)  # the terminal, its signals and the exit status are the command's own
