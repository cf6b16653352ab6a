"""Every check, in the order in which an administrator would look."""

from gateway.doctor import check_condor, check_firewall, check_network, check_node, check_running
from gateway.doctor.findings import Check

CHECKS: tuple[Check, ...] = (
    *check_node.CHECKS,
    *check_network.CHECKS,
    *check_firewall.CHECKS,
    *check_condor.CHECKS,
    *check_running.CHECKS,
)
