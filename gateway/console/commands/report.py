"""`condor-gateway report`: one archive with what somebody who helps needs to see, and without any secret."""

import argparse
import sys
import time
from pathlib import Path

from gateway.console.commands.common import OK, Refused, add_file

NAME = "report"
HELP = "pack a support bundle: status, history, findings, configuration; no secrets"
DESCRIPTION = """\
Pack what somebody who helps needs to see into one archive: status and history of the node and the status of its peers,
doctor's findings, the configuration file, versions, sysctls, interfaces and routes, this program's own nftables tables,
HTCondor's settings as far as they matter, and the newest lines of the journal. Keys, tokens and passwords are taken out
of every part. It says what is in it; a part that can't be had does not end the rest. It takes up to a minute."""
EXAMPLES = ("condor-gateway report", "condor-gateway report -o /tmp/report.tar.gz")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_file(parser)
    parser.add_argument("--node", metavar="NAME", help="which peer of the file this host is; found out where not given")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="the archive (default: condor-gateway-report-HOST-TIME.tar.gz here)"
    )


def run(chosen: argparse.Namespace) -> int:
    """Pack it."""
    from gateway.console.bundle import collect, contents, write_bundle
    from gateway.console.bundle_parts import parts, secrets
    from gateway.console.commands.doctor import asking
    from gateway.console.redact import Redactor
    from gateway.doctor.gather import gather

    facts = gather(chosen.file, node=chosen.node, ask=asking)
    at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    folder = f"condor-gateway-report-{facts.host or 'host'}-{at}"
    path = Path(chosen.output or f"{folder}.tar.gz")
    ask = asking(facts.settings) if facts.settings is not None else None
    made = collect(parts(facts, ask), lambda: Redactor(secrets(facts)))
    listing = contents(made, f"condor-gateway {facts.program} on {facts.host}, {at}")
    try:
        size = write_bundle(path, made, listing, folder)
    except FileExistsError:
        raise Refused(f"'{path}' exists already and is not overwritten: name another with -o") from None
    except OSError as error:
        raise Refused(f"'{path}' cannot be written: {error.strerror}") from None
    print(listing)
    if not facts.root:
        print("not run as root: much of it could not be had", file=sys.stderr)
    print(f"{path}: {max(size // 1024, 1)} KiB")
    return OK
