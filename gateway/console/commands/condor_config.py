"""`condor-gateway condor-config`: HTCondor's own configuration for a host of the pool."""

import argparse
import socket

from gateway.console.commands.common import OK, Refused, add_file, load_file

NAME = "condor-config"
HELP = "print HTCondor's configuration for a kind of host of this pool"
DESCRIPTION = """\
Print what HTCondor needs on a host of this pool, with the reason above each line: the virtual address and no more on
submit and execute hosts, the manager's own name and no negotiator on managers. Changes nothing; put it where HTCondor
reads it (a folder of LOCAL_CONFIG_DIR) and run condor_reconfig, or condor_restart where CONDOR_HOST has changed."""
EXAMPLES = (
    "condor-gateway condor-config --role execute",
    "condor-gateway condor-config --role manager > /etc/condor/config.d/50-pool.config",
)
ROLES = ("manager", "submit", "execute", "gateway")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_file(parser)
    parser.add_argument("--role", required=True, choices=ROLES, help="what the host does")
    parser.add_argument("--backend", metavar="NAME", help="which pool, where the file has several")
    parser.add_argument("--node", metavar="NAME", help="which manager it is for; this host where it is one")


def run(chosen: argparse.Namespace) -> int:
    """Print it."""
    from gateway.config import ConfigError, identify
    from gateway.kernel.address import local_addresses
    from gateway.matchmaker.pool_config import HostRole, NoPool, pool_of, render

    settings = load_file(chosen.file).require()
    role = HostRole(chosen.role)
    try:
        backend = pool_of(settings, chosen.backend)
        node = chosen.node
        if node is None and role is HostRole.MANAGER:
            servers = {server.name for server in backend.servers}
            try:
                here = local_addresses()
                found = identify(settings, node=None, host_name=socket.gethostname(), local_addresses=here).name
            except ConfigError:  # not a host of the cluster: the text is for any manager
                found = None
            node = found if found in servers else None
        print(render(settings, backend, role, node=node), end="")
    except NoPool as error:
        raise Refused(str(error)) from error
    return OK
