"""What moving from condor_had to this program changes, and in which order it is done, as text for people. Pure."""

from typing import Final

from gateway.config.settings import OnPartition
from gateway.console.had_import import LEASE_MS, Had, Wanted, policy_of


def render_summary(had: Had, wanted: Wanted, voters: int) -> str:
    """Return what changes: how long a takeover takes, what goes from HTCondor's configuration, in which order."""
    count, seconds = len(had.managers), had.timeout_s
    documented = 12 * count * seconds
    measured = "; measured 97-124 s" if (count, seconds) == (2, 5) else ""
    lost = (
        f"up to {had.replication_s} s of it (REPLICATION_INTERVAL)" if had.replicated else "all of it: no replication"
    )
    policy = policy_of(had, wanted, voters)
    within = f"{documented} s, {documented + 6} s at most{measured}"
    counted = f"12 x {count} managers x HAD_CONNECTION_TIMEOUT {seconds} s"
    rows = [
        ("", "condor_had", "condor-gateway"),
        ("a manager dies", within, f"lease {LEASE_MS} ms; measured 0.26-0.31 s"),
        ("how it is counted", counted, "one lease, whatever their number"),
        ("first new match", "the same, and a negotiation cycle", "measured 0.35-0.48 s after the death"),
        ("accounting lost", lost, "the last milliseconds, until it is back"),
        ("network partition", "a leader on each side, one history kept", _partitioned(policy, voters)),
        ("machines name", f"all {count} managers", f"one address, {wanted.address.partition('/')[0]}"),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    table = [f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip() for row in rows]
    lines = [*table, "", "remove from HTCondor's configuration on every manager:"]
    lines += [f"  {line}" for line in had.removals] or ["  nothing that this host has"]
    lines += ["and let it have instead what 'condor-gateway condor-config --role manager' prints", ""]
    lines += [*_STEPS.format(address=_host_of(wanted.address)).splitlines()]
    return "\n".join(lines + [f"note: {note}" for note in had.notes])


def _partitioned(policy: OnPartition | None, voters: int) -> str:
    if policy is OnPartition.SERVE:
        return "a leader on each side, both histories merged"
    return "the majority goes on" if voters > 2 else "nobody serves until it heals"


def _host_of(address: str) -> str:
    host = address.partition("/")[0]
    return f"[{host}]" if ":" in host else host


_STEPS: Final = """\
in this order, and the pool stands still only from 3 to 4:
  1. the file to every host, the key too ('condor-gateway keygen' makes it), 'condor-gateway doctor' on each
  2. on submit and execute hosts: CONDOR_HOST = {address}; do not reconfigure yet
  3. on every manager: the new HTCondor configuration, condor_restart; HAD and negotiators end
     within seconds 'ss -ltn' shows port 9618 at the manager's own address alone; not before is it free for us
     copy $(SPOOL)/Accountantnew.log of the manager that led to the others: the first elected one takes its own
  4. start condor-gateway on every host; 'condor-gateway status' shows who is elected
  5. condor_reconfig on submit and execute hosts
"""
