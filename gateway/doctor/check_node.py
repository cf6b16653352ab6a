"""Checks of the node itself: its file, key, disk, clock, kernel and limits. Each is a pure function over the facts."""

from collections.abc import Iterator
from typing import Final

from gateway.config.settings import Forward
from gateway.doctor.facts import Facts
from gateway.doctor.findings import Check, Trouble, error, note, warning

EGRESS_KERNEL: Final = (5, 16)  # nftables' netdev egress hook: the lease is enforced on what leaves too
OWNER_KERNEL: Final = (6, 9)  # tables with `owner` and `persist`: other programs can't flush them
FREE_BYTES_MIN: Final = 64 << 20  # replicas, journals and the archive of merges of a large pool
YEAR_2024_S: Final = 1_704_067_200  # a clock before this program was written has not been set
CONNTRACK_SHARE: Final = 0.8
RESERVED_DESCRIPTORS: Final = 256  # what a process of the relay needs beside its connections
MEMORY_FILE_SYSTEMS: Final = frozenset({"tmpfs", "ramfs", "overlay-tmpfs"})


def file_is_valid(facts: Facts) -> Iterator[Trouble]:
    """The file has no error."""
    if facts.invalid:
        first = facts.invalid.splitlines()[0]
        more = facts.invalid.count(": error: ") - 1
        told = f" and {more} more" if more > 0 else ""
        yield error(f"the file is not valid: {first}{told}", f"condor-gateway check -f {facts.path}")


def file_is_advisable(facts: Facts) -> list[Trouble] | None:
    """The file has no warning."""
    if facts.settings is None:
        return None
    return [warning(sentence, "change it, or know why it stands there") for sentence in facts.advice]


def host_is_a_peer(facts: Facts) -> list[Trouble] | None:
    """This host is in the file."""
    if facts.settings is None:
        return None
    if facts.me is None:
        return [warning(facts.stranger or "this host is none of the file's peers", "--node NAME says which it is")]
    return []


def runs_as_root(facts: Facts) -> Iterator[Trouble]:
    """Root sees everything."""
    if not facts.root:
        yield note("not run as root: key file, firewall and HTCondor's configuration were looked at in part only")


def key_can_be_read(facts: Facts) -> list[Trouble] | None:
    """The key file is there, root's alone, and holds a key."""
    if facts.settings is None or not facts.root:
        return None
    if facts.key:
        sentence, _, remedy = facts.key.partition(": ")
        fallback = "make it root's with mode 0600, or take it from another node"
        return [error(sentence if remedy else facts.key, remedy or fallback)]
    return []


def state_survives_a_boot(facts: Facts) -> list[Trouble] | None:
    """Terms and votes are on a real disk."""
    if facts.settings is None or facts.state is None:
        return None
    folder = facts.settings.state_dir
    if not facts.state.exists:
        return [note(f"state-dir '{folder}' is not there yet: the node makes it at its first start")]
    if facts.state.file_system in MEMORY_FILE_SYSTEMS:
        return [
            error(
                f"state-dir '{folder}' is in memory ({facts.state.file_system}): after a reboot this node would forget "
                "its votes, and two leaders could be elected",
                "put state-dir on a disk, such as /var/lib/condor-gateway",
            )
        ]
    if facts.state.free_bytes < FREE_BYTES_MIN:
        free = facts.state.free_bytes >> 20
        return [
            warning(f"state-dir '{folder}' has {free} MiB left", "make room: a vote that can't be kept is not given")
        ]
    return []


def clock_is_set(facts: Facts) -> list[Trouble] | None:
    """The clock has been set. Elections do not need it; logs, ads and the accounting do."""
    if facts.clock is None:
        return None
    if facts.clock.unix_s < YEAR_2024_S:
        return [
            error(
                "this host's clock has never been set: HTCondor would refuse its tokens and misdate its accounting",
                "set it, and run chrony or systemd-timesyncd",
            )
        ]
    if facts.clock.synchronised is False:
        told = "the kernel says that nobody keeps this host's clock; elections do not need it, accounting and logs do"
        return [note(told, "run chrony or systemd-timesyncd")]
    return []


def kernel_is_new_enough(facts: Facts) -> list[Trouble] | None:
    """The kernel can keep the lease of an address."""
    if facts.kernel is None or facts.settings is None or not facts.held():
        return None
    said = f"Linux {facts.kernel[0]}.{facts.kernel[1]}"
    if facts.kernel < EGRESS_KERNEL:
        return [
            warning(
                f"{said} has no netdev egress hook: the kernel keeps the lease on what comes in, not on what leaves",
                "Linux 5.16 or later",
            )
        ]
    if facts.kernel < OWNER_KERNEL:
        return [
            note(f"{said} lets other programs flush the table that keeps the lease ('nft flush ruleset')", "Linux 6.9")
        ]
    return []


def sysctls_can_be_set(facts: Facts) -> list[Trouble] | None:
    """Where the node must change a sysctl, it may."""
    ways = {backend.forward for backend in facts.carried()} | {
        backend.forward for backend in facts.managed() if backend.forward is Forward.DIRECT
    }
    needing = sorted(ways & {Forward.NAT, Forward.DIRECT})
    if not needing:
        return None
    if facts.sysctls_fixed:
        told = f"'forward {needing[0]}' needs sysctls that this host does not let be changed: /proc/sys is read-only"
        return [error(told, "no ProtectKernelTunables in the unit; in a container, mount /proc/sys writable")]
    return []


def real_time_is_permitted(facts: Facts) -> list[Trouble] | None:
    """Control and guard may run before others."""
    if facts.realtime is None:
        return None
    if facts.realtime:
        return [
            warning(
                f"no real-time priority here: {facts.realtime}; under load this node may lose a lease for nothing",
                "run it as root, with CAP_SYS_NICE, and with a real-time share of its cpu cgroup",
            )
        ]
    return []


def descriptors_suffice(facts: Facts) -> list[Trouble] | None:
    """Every connection that the file allows has its file descriptors."""
    if facts.descriptors is None or facts.settings is None or not facts.carried():
        return None
    names = {backend.name for backend in facts.carried()}
    fronts = [front for front in facts.settings.frontends if front.backend in names]
    clients = sum(front.maxconn * len(front.binds) for front in fronts)
    workers = facts.settings.relay_workers or 1  # auto is at least one
    wanted = 2 * -(-clients // workers) + RESERVED_DESCRIPTORS
    if wanted > facts.descriptors:
        return [
            warning(
                f"maxconn asks for {wanted} file descriptors in a process of the relay, and the limit is "
                f"{facts.descriptors}: connections beyond it are refused",
                f"LimitNOFILE={wanted} in the unit, or a smaller maxconn",
            )
        ]
    return []


def conntrack_has_room(facts: Facts) -> list[Trouble] | None:
    """The kernel tracks every flow that `forward nat` carries."""
    if facts.conntrack is None or facts.settings is None:
        return None
    carried = [backend for backend in facts.carried() if backend.forward is Forward.NAT]
    if not carried:
        return None
    used, most = facts.conntrack
    names = {backend.name for backend in carried}
    clients = sum(front.maxconn for front in facts.settings.frontends if front.backend in names)
    if used > CONNTRACK_SHARE * most:
        told = f"the kernel's table of flows is nearly full: {used} of {most}; a new flow is dropped when it is"
        return [error(told, f"sysctl -w net.netfilter.nf_conntrack_max={most * 4}")]
    if most < 2 * clients:
        told = f"the kernel tracks {most} flows of this host, and maxconn lets {clients} clients in"
        return [warning(told, f"sysctl -w net.netfilter.nf_conntrack_max={max(4 * clients, 65_536)}")]
    return []


CHECKS: tuple[Check, ...] = (
    Check("file-valid", "the file is valid", file_is_valid),
    Check("file-advice", "nothing in the file is doubtful", file_is_advisable),
    Check("node-known", "this host is one of the peers", host_is_a_peer),
    Check("root", "run as root", runs_as_root),
    Check("key-file", "the key file is there, and root's alone", key_can_be_read),
    Check("state-dir", "votes and replicas are on a disk with room", state_survives_a_boot),
    Check("clock", "the clock is set and kept", clock_is_set),
    Check("kernel-version", "the kernel can keep the lease", kernel_is_new_enough),
    Check("sysctl-writable", "sysctls can be set", sysctls_can_be_set),
    Check("real-time", "real-time priority is permitted", real_time_is_permitted),
    Check("open-files", "there are file descriptors for every connection", descriptors_suffice),
    Check("conntrack-max", "the kernel has room for every flow", conntrack_has_room),
)
