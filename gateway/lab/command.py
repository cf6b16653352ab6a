"""`condor-gateway lab`: a whole pool on this machine, from the command line. Errors are one sentence each.

Imported by every command of the program, so it imports nothing heavy until it is run.
"""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from gateway.lab.errors import LabError

if TYPE_CHECKING:
    from gateway.lab.pool import HostStatus

OK, REFUSED, INTERRUPTED = 0, 1, 130

READY_S_MAX = 90.0  # a pool is ready in 5 to 30 s here; a slow machine may need longer

LOOK = """\
The pool of lab {name!r} is up. Look at it:
  condor-gateway lab status{option}
  condor-gateway lab exec{option} submit1 -- condor_status
  condor-gateway lab exec{option} --user physicist submit1 -- condor_q
  condor-gateway lab fault{option} kill cm1
End it:
  condor-gateway lab down{option}"""

_Async = Callable[[argparse.Namespace], Awaitable[int]]


def add_arguments(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add `lab` and what it can do to the program's commands; each sets `command`, a function of the arguments."""
    lab = commands.add_parser("lab", help="run a whole HTCondor pool on this machine, break it and measure it")
    inner = lab.add_subparsers(title="lab commands", required=True, metavar="LAB-COMMAND")

    up = _add(inner, "up", _up, "bring a pool up in network namespaces and leave it running")
    up.add_argument("--managers", type=int, default=3, metavar="N", help="central managers (default 3)")
    up.add_argument("--gateways", type=int, default=2, metavar="N", help="gateways (default 2)")
    up.add_argument("--submit", type=int, default=1, metavar="N", help="submit hosts (default 1)")
    up.add_argument("--execute", type=int, default=2, metavar="N", help="execute hosts (default 2)")
    up.add_argument("--slots", type=int, default=8, metavar="N", help="slots on each execute host (default 8)")
    up.add_argument("--forward", choices=("proxy", "nat", "direct"), default="proxy")
    up.add_argument("--transparent", action="store_true", help="managers see the clients' addresses")
    up.add_argument("--ip-version", type=int, choices=(4, 6), default=4, help="of every address (default 4)")
    up.add_argument("--updates", choices=("tcp", "udp"), default="tcp", help="how ads are sent (default tcp)")
    up.add_argument("--condor-suite", choices=("trixie", "sid"), default="trixie", help="whose HTCondor")
    up.add_argument("--with", dest="system", choices=("ours", "had", "plain"), default="ours",
                    help="what makes the matchmaker available: ours, HTCondor's own, nothing")  # fmt: skip

    up.add_argument("--on-partition", choices=("hold", "serve"), help="what the gateway's file says of partitions")

    status = _add(inner, "status", _status, "show every host, and who leads")
    status.add_argument("--json", action="store_true", help="for programs")

    execute = _add(inner, "exec", _exec, "run a command on a host")
    execute.add_argument("--user", default="root", help="root, or who submits jobs: physicist (default root)")
    execute.add_argument("host", metavar="HOST")
    execute.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD")

    fault = _add(inner, "fault", _fault, "break something, or mend it")
    fault.add_argument("kind", choices=(*_HOST_FAULTS, *_PAIR_FAULTS, *_NETWORK_FAULTS))
    fault.add_argument("hosts", nargs="*", metavar="HOST", help="one host; two for cut and heal; of partition one side "
                       "(default: half of each kind); none for mend, which undoes every cut")  # fmt: skip

    _add(inner, "down", _down, "end the pool and leave nothing behind")

    try:
        measure: Any = importlib.import_module("gateway.lab.measure.command")
    except ModuleNotFoundError:  # a build without measurements
        return
    measure.add_arguments(inner)


def _add(inner: Any, name: str, function: _Async, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = inner.add_parser(name, help=text, description=text)
    parser.add_argument("--name", default="lab", help="which lab: several stand side by side (default 'lab')")
    parser.set_defaults(command=run, lab_function=function)
    return parser


def run(chosen: argparse.Namespace) -> int:
    """Carry out one lab command; return the exit status. An interrupted `up` takes its lab away again."""
    import trio

    function: _Async = chosen.lab_function

    async def main() -> int:
        status = INTERRUPTED
        async with trio.open_nursery() as nursery:

            async def cancel_at_signal() -> None:
                with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP, signal.SIGINT) as signals:
                    async for _ in signals:
                        nursery.cancel_scope.cancel()

            nursery.start_soon(cancel_at_signal)
            status = await function(chosen)
            nursery.cancel_scope.cancel()
        return status

    try:
        return trio.run(main)
    except* LabError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        print(f"condor-gateway: {error}", file=sys.stderr)
    return REFUSED


def _say(text: str) -> None:
    print(f"lab: {text}", file=sys.stderr, flush=True)


async def _up(chosen: argparse.Namespace) -> int:
    from gateway.config.settings import Forward, OnPartition
    from gateway.lab.pool import Lab
    from gateway.lab.topology import System, Topology, Updates

    topology = Topology(
        name=chosen.name,
        managers=chosen.managers,
        gateways=chosen.gateways,
        submit=chosen.submit,
        execute=chosen.execute,
        slots=chosen.slots,
        forward=Forward(chosen.forward),
        suite=chosen.condor_suite,
        system=System(chosen.system),
        on_partition=None if chosen.on_partition is None else OnPartition(chosen.on_partition),
        ip_version=chosen.ip_version,
        updates=Updates(chosen.updates),
        transparent=chosen.transparent,
    )
    lab = await Lab.up(topology, _say)
    try:
        await lab.wait_ready(READY_S_MAX, _say)
    except LabError as error:
        # Left up: its logs are what tells why.
        raise LabError(f"{error}; it is left up to be looked at, 'lab down' ends it") from error
    print(LOOK.format(name=chosen.name, option="" if chosen.name == "lab" else f" --name {chosen.name}"))
    return OK


async def _status(chosen: argparse.Namespace) -> int:
    import msgspec

    from gateway.lab.pool import Lab

    hosts = await Lab.attach(chosen.name).status()
    if chosen.json:
        print(msgspec.json.encode(hosts).decode())
        return OK
    print(f"{'HOST':<10} {'KIND':<8} {'ADDRESS':<12} {'STATE':<5} LEADS")
    for host in hosts:
        state = "up" if host.up else "down"
        print(f"{host.name:<10} {host.kind:<8} {host.address:<12} {state:<5} {_leads(host)}".rstrip())
    return OK


def _leads(host: "HostStatus") -> str:
    return ", ".join(host.leads) if host.gateway is not None else ""


async def _exec(chosen: argparse.Namespace) -> int:
    from gateway.lab.pool import Lab

    argv = chosen.argv[1:] if chosen.argv[:1] == ["--"] else chosen.argv
    if not argv:
        raise LabError("no command to run: write it after '--', as in 'lab exec submit1 -- condor_status'")
    entering = Lab.attach(chosen.name).enter_argv(chosen.host, argv, user=chosen.user)
    sys.stdout.flush()
    os.execvp(entering[0], entering)  # the terminal, its signals and the exit status are the command's own


_HOST_FAULTS = ("kill", "revive", "freeze", "thaw", "link-down", "link-up")
_PAIR_FAULTS = ("cut", "heal")
_NETWORK_FAULTS = ("partition", "mend")


async def _fault(chosen: argparse.Namespace) -> int:
    from gateway.lab.pool import Lab

    if chosen.kind == "partition":
        await Lab.attach(chosen.name).partition(chosen.hosts)
        return OK
    wanted = 2 if chosen.kind in _PAIR_FAULTS else 0 if chosen.kind in _NETWORK_FAULTS else 1
    if len(chosen.hosts) != wanted:
        raise LabError(
            f"'fault {chosen.kind}' takes {wanted} host{'' if wanted == 1 else 's'}, not {len(chosen.hosts)}"
        )
    lab = Lab.attach(chosen.name)
    await getattr(lab, chosen.kind.replace("-", "_"))(*chosen.hosts)
    return OK


async def _down(chosen: argparse.Namespace) -> int:
    from gateway.lab import teardown
    from gateway.lab.topology import Topology

    Topology(name=chosen.name).checked()
    if not await teardown.remove(chosen.name):
        _say(f"there is no lab {chosen.name!r}")
    return OK
