"""`condor-gateway import-had`: what HTCondor's own high availability is told here, in our language."""

import argparse
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.console.commands.common import OK, Refused

if TYPE_CHECKING:
    from gateway.console.had_import import Host

NAME = "import-had"
HELP = "write the configuration that does what HTCondor's condor_had does now"
DESCRIPTION = """\
Run it on a central manager that has condor_had. It reads HAD_LIST and its companions through condor_config_val, and
writes the equivalent file; then it shows the old time of a takeover beside the new one, and what to remove from
HTCondor's configuration. What HAD does not know it is told here, or asks for: the pool's address and its interface."""
EXAMPLES = (
    "condor-gateway import-had --address 10.0.0.100 --device eth0 -o /etc/condor-gateway/gateway.cfg",
    "condor-gateway import-had --address 10.0.0.9 --device eth0 --gateways gw1=10.0.0.91,gw2=10.0.0.92",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--address", metavar="IP", help="the virtual address that the pool's machines will name")
    parser.add_argument("--device", metavar="NAME", help="the interface that carries it on the gateways")
    parser.add_argument(
        "--gateways", metavar="NAME=IP,...", help="hosts of their own for the address (default: the managers)"
    )
    parser.add_argument("--witness", metavar="NAME=IP", help="a host that only votes: wanted where there are two")
    parser.add_argument("--on-partition", choices=("hold", "serve"), help="two voters alone: as HAD did, serve")
    parser.add_argument("--cluster", metavar="NAME", help="the cluster's name (default: COLLECTOR_NAME)")
    parser.add_argument("--config-val", metavar="PATH", help="HTCondor's condor_config_val (default: that in PATH)")
    parser.add_argument("-o", "--output", metavar="FILE", help="where the file goes (default: standard output)")


def run(chosen: argparse.Namespace) -> int:
    """Import it."""
    from gateway.config import load, render_all
    from gateway.config.settings import OnPartition
    from gateway.console.had_import import (
        PATTERN,
        NoHad,
        Wanted,
        peers_of,
        read_had,
        render_file,
    )
    from gateway.console.had_summary import render_summary
    from gateway.doctor.condor import CONFIG_VAL, CondorSilent, ask_condor

    try:
        had = read_had(ask_condor(PATTERN, config_val=chosen.config_val or CONFIG_VAL))
        wanted = Wanted(
            address=chosen.address or _asked("--address", "the pool's virtual address"),
            device=chosen.device or _asked("--device", "the interface that carries it"),
            gateways=_hosts(chosen.gateways),
            witness=_hosts(chosen.witness)[0] if chosen.witness else None,
            on_partition=OnPartition(chosen.on_partition) if chosen.on_partition else None,
            cluster=chosen.cluster,
        )
        managers, gateways = peers_of(had, wanted, lambda name: _resolve(name, six=":" in wanted.address))
    except (CondorSilent, NoHad) as error:
        raise Refused(str(error)) from error
    text = render_file(had, wanted, managers, gateways)
    loaded = load(text, chosen.output or "gateway.cfg", os.environ)
    if loaded.settings is None:
        raise Refused(f"what you said makes no valid file:\n{render_all(loaded.diagnostics)}".rstrip())
    # The summary is for people: where the file goes to standard output, it must not be in it.
    if chosen.output is None:
        print(text, end="")
    else:
        _write(chosen.output, text)
    summary = render_summary(had, wanted, len(loaded.settings.peers))
    out = sys.stdout if chosen.output else sys.stderr
    written = f"{chosen.output}: valid\n\n" if chosen.output else ""
    print(f"{written}{summary}\n{render_all(loaded.diagnostics)}".rstrip(), file=out)
    return OK


def _asked(option: str, what: str) -> str:
    """Ask whoever sits at the terminal; a program gets a refusal that names the option."""
    if not sys.stdin.isatty():
        raise Refused(f"HAD knows nothing of {what}: say it with {option}")
    try:
        print(f"{what}: ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline().strip()
    except OSError:
        answer = ""
    if not answer:
        raise Refused(f"nothing was said: name {what} with {option}")
    return answer


def _hosts(text: str | None) -> "tuple[Host, ...]":
    """Return the hosts of a list of NAME=IP; an address may be left to the resolver."""
    from gateway.console.had_import import Host

    found = []
    for word in (text or "").split(","):
        name, equals, address = word.strip().partition("=")
        if name:
            found.append(Host(name.partition(".")[0], address if equals else _resolve(name, six=False)))
    return tuple(found)


def _resolve(name: str, *, six: bool) -> str:
    """Return the address of a name: the file has literals only, for no election may wait for a name server."""
    from gateway.console.had_import import NoHad

    family = socket.AF_INET6 if six else socket.AF_INET
    try:
        found = socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)
    except OSError as error:
        version = 6 if six else 4
        raise NoHad(f"host '{name}' of HAD_LIST has no IPv{version} address here: {error.strerror or error}") from None
    return str(found[0][4][0])


def _write(path: str, text: str) -> None:
    try:
        with Path(path).open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Refused(f"'{path}' exists already and is not overwritten: name another with -o") from None
    except OSError as error:
        raise Refused(f"'{path}' cannot be written: {error.strerror}") from None
