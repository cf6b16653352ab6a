"""This host's HTCondor: where it keeps its things, and how its tools are run.

Rule: HTCondor is asked (condor_config_val), never guessed at; every tool has a deadline and is killed at its end.
"""

import os
import pwd
from pathlib import Path

import msgspec
import trio

from gateway.matchmaker.tool import run_printing

DISCOVER_MS = (
    10_000  # condor_config_val takes 20 ms; a configuration that runs scripts (`include : ... |`) may take seconds
)
OUTPUT_BYTES_MAX = 64 << 20  # a pool of 10,000 slots prints some 40 MB with -long
SAID_CHARACTERS_MAX = 300  # condor_status explains a refused connection in half a page

# What is asked, in this order: `-macro` expands each on a line of its own, with a default where HTCondor has none.
_QUESTIONS = (
    "$(LOCAL_CONFIG_DIR)",
    "$(SPOOL)",
    "$(LOG)",
    # The negotiator's own rule: src/condor_negotiator.V6/Accountant.cpp, Accountant::Initialize.
    "$(ACCOUNTANT_DATABASE_FILE:$(SPOOL)/Accountantnew.log)",
    "$(MASTER)",
    "$(NEGOTIATOR)",
    "$(COLLECTOR)",
    "$(CONDOR_IDS:)",
    "$(CONDOR_VERSION)",
    "$(SHARED_PORT_DAEMON_AD_FILE:)",
    # What a daemon's address says its name is: src/condor_io/sock.cpp, Sock::get_sinful_public.
    "$(HOST_ALIAS:$(FULL_HOSTNAME))",
    "$(FULL_HOSTNAME)",
    "$(NEGOTIATOR_LOG:$(LOG)/NegotiatorLog)",
    # Both must be true for a collector behind condor_shared_port: src/condor_master.V6/masterDaemon.cpp.
    "$(USE_SHARED_PORT:True)",
    "$(COLLECTOR_USES_SHARED_PORT:True)",
)
FALSE = frozenset({"false", "f", "no", "0"})  # as HTCondor reads them, in any case


class CondorMissing(Exception):  # noqa: N818 (the condition's name)
    """HTCondor is not installed here, or its configuration can't be used. The message is for the operator."""


class ToolFailed(Exception):  # noqa: N818 (an outcome, not an error of this program)
    """A tool of HTCondor ended badly or not in time. `detail` holds what it said, for a log."""

    def __init__(self, tool: str, detail: str) -> None:
        super().__init__(f"{tool}: {detail}")
        self.tool = tool
        self.detail = detail


class CondorHost(msgspec.Struct, frozen=True, kw_only=True):
    """What a manager's node needs to know of the HTCondor on its host. Paths are absolute."""

    config_dir: str  # the last of LOCAL_CONFIG_DIR: read last, so that what stands there counts
    spool: str
    log: str
    accountant_log: str
    master: str
    negotiator: str
    collector: str
    uid: int  # who HTCondor's daemons run as, and whose the files in the spool must be
    gid: int
    version: str
    shared_port_ad: str  # where condor_shared_port leaves its address for the daemons behind it; "": nowhere
    alias: str  # this host's name, as its daemons' addresses have it
    full_hostname: str
    negotiator_log: str = ""  # "": not known
    shared_port: bool = True  # the collector is behind condor_shared_port, and does not own its port


async def run_tool(*command: str, stdin: bytes = b"", timeout_ms: int) -> str:
    """Run a tool of HTCondor and return its standard output, decoded with replacement of what is not UTF-8.

    Raises:
        ToolFailed: not found, exit status not 0, or still running after `timeout_ms` (it has been killed).
    """
    tool = os.path.basename(command[0])
    try:
        with trio.fail_after(timeout_ms / 1000):
            done = await run_printing(command, stdin)
    except trio.TooSlowError:
        raise ToolFailed(tool, f"no answer within {timeout_ms} ms") from None
    except OSError as error:
        raise ToolFailed(tool, f"cannot be run: {error.strerror or error}") from None
    if len(done.stdout) > OUTPUT_BYTES_MAX:
        raise ToolFailed(tool, f"printed {len(done.stdout)} bytes, more than {OUTPUT_BYTES_MAX}")
    if done.returncode != 0:
        said = " ".join(done.stderr.decode(errors="replace").split()) or "it said nothing"
        raise ToolFailed(tool, f"exit status {done.returncode}: {said[:SAID_CHARACTERS_MAX]}")
    return done.stdout.decode(errors="replace")


async def discover() -> CondorHost:
    """Ask condor_config_val where this host's HTCondor keeps its things.

    Raises:
        CondorMissing: not installed, configuration unreadable, or nowhere to put a file of our own.
    """
    try:
        answer = await run_tool("condor_config_val", "-macro", *_QUESTIONS, timeout_ms=DISCOVER_MS)
    except ToolFailed as error:
        if "cannot be run" in error.detail:
            text = "HTCondor is not installed here (condor_config_val is not in PATH): a manager needs its package"
            raise CondorMissing(text) from None
        raise CondorMissing(f"HTCondor's configuration cannot be read: {error}") from None
    lines = [line.strip() for line in answer.splitlines()]
    if len(lines) < len(_QUESTIONS):
        raise CondorMissing(f"condor_config_val gave {len(lines)} of {len(_QUESTIONS)} answers: {answer[:200]!r}")
    (config_dirs, spool, log, accountant, master, negotiator, collector, ids, version, shared, alias, hostname,
     negotiator_log, *shared_port) = lines[: len(_QUESTIONS)]  # fmt: skip
    config_dir = config_dirs.split(",")[-1].strip()
    if not config_dir or not await trio.Path(config_dir).is_dir():
        text = (
            f"HTCondor's LOCAL_CONFIG_DIR is {config_dirs!r}: name a folder there, where condor-gateway keeps its file"
        )
        raise CondorMissing(text)
    for binary in (master, negotiator, collector):
        if not await trio.Path(binary).is_file():
            raise CondorMissing(f"HTCondor's program {binary!r} is not there: install HTCondor's central manager")
    uid, gid = await trio.to_thread.run_sync(condor_ids, ids)
    return CondorHost(
        config_dir=config_dir,
        spool=spool,
        log=log,
        accountant_log=accountant,
        # As the kernel names them: /proc/PID/exe has no symbolic links.
        master=str(await trio.to_thread.run_sync(Path(master).resolve)),
        negotiator=str(await trio.to_thread.run_sync(Path(negotiator).resolve)),
        collector=str(await trio.to_thread.run_sync(Path(collector).resolve)),
        uid=uid,
        gid=gid,
        version=version,
        shared_port_ad=shared,
        alias=alias,
        full_hostname=hostname,
        negotiator_log=negotiator_log,
        shared_port=FALSE.isdisjoint(value.lower() for value in shared_port),
    )


def condor_ids(text: str) -> tuple[int, int]:
    """Return (user id, group id) of CONDOR_IDS = `text` ("uid.gid"), or of the user condor where it is empty."""
    if not text:
        try:
            entry = pwd.getpwnam("condor")
        except KeyError:
            raise CondorMissing("there is no user 'condor' and no CONDOR_IDS in HTCondor's configuration") from None
        return entry.pw_uid, entry.pw_gid
    uid, dot, gid = text.partition(".")
    if not (dot and uid.isdecimal() and gid.isdecimal()):
        raise CondorMissing(f"CONDOR_IDS = {text!r} in HTCondor's configuration: write it as user.group, say 100.100")
    return int(uid), int(gid)
