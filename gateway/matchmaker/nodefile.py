"""The node's own files in HTCondor's configuration: what they say in each role, and how they get there.

Rule: they hold everything that this program sets in HTCondor, and an administrator who reads them at night knows why.
One is there for good and lists no negotiator; it includes the other, which lists it while this manager is elected and
does not outlive the machine: after a power cut condor_master finds nothing that would start a negotiator at boot.
"""

import contextlib
import os

from gateway.matchmaker.pool_address import PoolAddress

NAME = "zz-condor-gateway.config"  # read last in its folder, so that what stands here counts
ROLE_FILE = "/run/condor-gateway/role.config"  # /run is empty at boot (Filesystem Hierarchy Standard 3.0, section 3.15)

# A client that connects anew after a switch resumes a session that the new collector never had, and loses its update:
# the slot that has just become free. It does so where it has logged in less than this before.
# Refused after a switch, of 20 startds by TCP / 10 by UDP / 10 clients that connect for each update (every 2 s), and
# what a collector does for it, HTCondor 23.9.6, 90 slots in 30 startds (tests/bench/bench_sessions.py):
#   duration            1 s        2 s        5 s       10 s       60 s      86,400 s (HTCondor's default)
#   refused           0/0/0      0/0/0      0/0/6    0/40/10   13/28/10      20/40/10
#   logins a second     6.1        5.7        2.8        2.2        0.2           0.2
#   CPU s/min           3.1        3.3        2.6        2.9        2.3           2.9
# With 1,980 slots 3 to 5 s/min, whatever the duration. So is 25.14.1, but for UDP and sessions of 60 s and more: its
# collector no longer tells a client that it does not know the session, and thousands of ads were refused, not 40.
# Not 1: sessions end at whole seconds, so that 1 s is between 0 and 1; one that ends between its making and its use
# loses an update by UDP at any time (src/condor_io/condor_secman.cpp, LookupNonExpiredSession, sendAuthInfo_inner).
SESSION_S = 2
SESSION_NAME = "SEC_DEFAULT_SESSION_DURATION"

# NTSSPI is for Windows only, no daemon here can do it: a negotiator on which it is the only method of the DAEMON level
# has none left where one is required, and ends such a handshake at once (src/condor_io/condor_secman.cpp,
# filterAuthenticationMethods and FillInSecurityPolicyAd; src/condor_daemon_core.V6/daemon_command.cpp, ReadCommand).
NO_METHOD = "NTSSPI"
RESCHEDULE_NAME = "SEC_DAEMON_AUTHENTICATION_METHODS"

# All that a negotiator or a tool asks a collector for. StartD and Slot are the types of HTCondor >= 23.2.
FORWARDED_TYPES = ("Machine", "Submitter", "Scheduler", "DaemonMaster", "StartD", "Slot")

_HEAD = """\
# Written by condor-gateway: do not edit.
# To take this host out of condor-gateway's hands: stop condor-gateway, delete this file, run condor_reconfig.
"""

_INCLUDE = """
# What holds for this manager's present role only. It is there while condor-gateway runs, and gone after a boot: no
# negotiator ever starts before condor-gateway has said that this manager is elected.
include ifexist : {file}
"""

_ROLE_HEAD = """\
# Written by condor-gateway, and written anew whenever this manager's role changes: do not edit.
#
# This manager {role}.
"""

_SESSIONS = """
# Clients authenticate afresh after {seconds} s instead of resuming a session. After a switch of managers a resumed
# session is unknown to the new collector, which rejects the update that came with it: a slot that has just become
# free would stay invisible until its next periodic update (UPDATE_INTERVAL, 300 s). Open TCP connections stay
# authenticated, so this costs next to nothing. SEC_DAEMON_SESSION_DURATION and its like count before this one: where
# your configuration has such a line, keep it away from the managers' collectors.
COLLECTOR.{name} = {seconds}
"""

_NEGOTIATOR = """
# The elected manager runs the negotiator, and no other does. It is never in this list at boot: two negotiators
# would both match the pool's slots and both charge its users.
DAEMON_LIST = $(DAEMON_LIST) NEGOTIATOR

# The negotiator refuses RESCHEDULE, the schedd's wish for a cycle soon, wherever it would have to be authenticated. To
# a negotiator that has just been elected a schedd has no session: it authenticates, and does nothing else until that
# is done; the negotiator, in the middle of a cycle, waits for that schedd's jobs and does nothing else either. Both
# stood still for 20 s (SEC_DEFAULT_AUTHENTICATION_TIMEOUT), and the whole pool's matching with them, at 7 of 88 new
# negotiators, and at none of 83 with this line. {method} is authentication on Windows: nobody has it, so the schedd
# has its refusal in milliseconds, and logs "Failed to send RESCHEDULE to negotiator". No harm is in that. It opens
# nothing to anybody. condor_userprio and condor_off are not of this level (DAEMON), and work as ever.
# From 25.14 on a schedd sends it but seldom, and not one of 90 new negotiators stood still; but to take it helped
# nobody there: a new job waited for 49 s instead of 54 (median, at NEGOTIATOR_INTERVAL 60). Older schedds may be about.
NEGOTIATOR.{name} = {method}

# What the refusal costs: a new job waits for the next cycle, NEGOTIATOR_INTERVAL at most (60 s by default). These are
# yours; condor-gateway sets none of them. Recommended on all managers, in a file of your own, for a pool of up to some
# 500 slots (416 idle ones: 1 % of a CPU, a first match after 2.6 s); with more, choose NEGOTIATOR_INTERVAL as ten times
# what a cycle takes (LastNegotiationCycleDuration0):
#   NEGOTIATOR_INTERVAL = 5
#   NEGOTIATOR_CYCLE_DELAY = 1
#   NEGOTIATOR_MIN_INTERVAL = 1
"""

_ADDRESS = """
# The negotiator gives the pool's address as its own, {virtual}: tools on submit and execute hosts (condor_userprio,
# the Python bindings) reach it there, whichever manager it runs on, also where they can't reach this host itself.
# It reads that in this file, written together with this one. TCP_FORWARDING_HOST would do the same for every daemon
# of this host, and the collector would send its own ad to itself and stand still for 20 s each time: do not set it.
NEGOTIATOR.SHARED_PORT_DAEMON_AD_FILE = {file}
"""

_NO_NEGOTIATOR = """
# No NEGOTIATOR in DAEMON_LIST: only the elected manager runs one. condor_on will say that it has started it, and
# nothing will happen. `condor-gateway status` shows which manager is elected.
"""

_LEFT_ALONE = """
# condor-gateway leaves the negotiator alone: its file does not say 'negotiator on-elected'. Whether this host runs one
# is what the rest of HTCondor's configuration says; two of them would both match the pool's slots.
"""

_FORWARDING = """
# Every ad that this collector gets goes on to the other managers' collectors, so that the pool is known there at
# the moment they take over. The addresses are relays of condor-gateway on this host: they refuse at once where a
# manager is dead or hung; a direct connection would freeze this collector for 20 to 40 s.
CONDOR_VIEW_HOST = $(CONDOR_VIEW_HOST) {hosts}

# Which ads go on: all that matching and condor_status need (HTCondor's own choice is slots and submitters only).
CONDOR_VIEW_CLASSAD_TYPES = {types}

# With their claim ids, also of claimed slots: without them the next negotiator can't match a slot that was busy.
COLLECTOR_FORWARD_CLAIMED_PRIVATE_ADS = True

# By TCP: it authenticates once; UDP would do so every time the short session above has run out.
UPDATE_VIEW_COLLECTOR_WITH_TCP = True
"""


def render(*, negotiator: bool, view_hosts: tuple[str, ...], address: PoolAddress | None = None) -> str:
    """Return the text of the role's file.

    `view_hosts` ("address:port") get this collector's ads: the elected manager's only.

    `address`: where the pool finds the elected manager's negotiator; None: at the manager's own address.
    """
    assert negotiator or not view_hosts, "a manager that is not elected forwards to nobody: ads would go in circles"
    text = _ROLE_HEAD.format(role="is elected: it runs the pool's negotiator" if negotiator else "stands by")
    text += _NEGOTIATOR.format(name=RESCHEDULE_NAME, method=NO_METHOD) if negotiator else _NO_NEGOTIATOR
    if negotiator and address is not None:
        text += _ADDRESS.format(virtual=address.virtual, file=address.file)
    return text + _forwarding(view_hosts)


def render_left_alone(*, elected: bool, view_hosts: tuple[str, ...]) -> str:
    """Return the text of the role's file where negotiators are left alone; see `render`."""
    assert elected or not view_hosts, "a manager that is not elected forwards to nobody: ads would go in circles"
    text = _ROLE_HEAD.format(role="is elected" if elected else "stands by") + _LEFT_ALONE
    return text + _forwarding(view_hosts)


def _forwarding(view_hosts: tuple[str, ...]) -> str:
    assert all(host.split() == [host] and "," not in host for host in view_hosts), f"view hosts {view_hosts}"
    if not view_hosts:
        return ""
    return _FORWARDING.format(hosts=" ".join(view_hosts), types=", ".join(FORWARDED_TYPES))


def render_standing(role_file: str = ROLE_FILE) -> str:
    """Return the text of the file that is there for good, and includes `role_file`."""
    text = _HEAD + _SESSIONS.format(name=SESSION_NAME, seconds=SESSION_S)
    return text + _INCLUDE.format(file=role_file)


def path(config_dir: str) -> str:
    """Return where the file that is there for good is in `config_dir`."""
    return os.path.join(config_dir, NAME)


def write(target: str, text: str) -> None:
    """Put `text` at `target`: whole or not at all, also through a crash. Blocks for milliseconds: call it in a thread.

    Raises:
        OSError: as the file system gave it; the old file is as it was.
    """
    folder, name = os.path.split(target)
    os.makedirs(folder, mode=0o755, exist_ok=True)  # after a boot the role's is not there
    # HTCondor reads no file whose name begins with a dot (LOCAL_CONFIG_DIR_EXCLUDE_REGEXP).
    new = os.path.join(folder, f".{name}.new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)  # of a crash, or a trap: not every folder that is written to is root's alone
    try:
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            data = memoryview(text.encode())
            while data:
                data = data[os.write(file, data) :]
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(new, target)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
