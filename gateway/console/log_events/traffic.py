"""Events of addresses and traffic: the virtual address, its fence, the relay, what the kernel forwards."""

from typing import Final

from gateway.console.log_events.event import LogEvent as E

EVENTS: Final = (
    E("address.held", "info", "term", "This node holds the address, and announces it."),
    E("address.dropped", "info", "term cause", "This node holds the address no more."),
    E("address.connections-ended", "info", "connections left", "The address is handed over: what ended on this host "
      "was reset, so that nobody waits for an answer that can't come."),
    E("address.connections-left", "warning", "reason", "Those could not be reset; who waits for an answer waits on.",
      "The reason is the kernel's: CONFIG_INET_DIAG, and CAP_NET_ADMIN."),
    E("address.fitness", "info", "fit reason", "Whether this node could hold the address has changed.",
      "Where it is not fit the reason says what is missing: the interface, its link, the relay."),
    E("address.stale-removed", "warning", "", "The address was on the interface at start, from a time before; it was "
      "removed.", "If it comes back after each boot, take it out of the host's own network configuration."),
    E("address.removed-by-other", "warning", "", "Somebody removed the address while this node held it; it was put "
      "back.", "Keep other network managers from the interface: for systemd-networkd 'KeepConfiguration'."),
    E("address.refused", "error", "reason", "The kernel refused to take the address; another node may.",
      "The reason is the kernel's: the interface is gone, or the node lacks CAP_NET_ADMIN."),
    E("address.stuck", "error", "reason", "The address could not be removed. The process ends; the fence keeps the "
      "address silent.", "Remove it by hand: ip address del."),
    E("address.conflict", "warning", "claimed_by", "Another host answers for the address.",
      "Find the MAC 'claimed_by' in the switch's table and take the address from that host."),
    E("address.conflict-over", "info", "claimed_by", "The other host claims it no more; it is announced again."),
    E("device.changed", "warning", "mac", "The interface has another MAC now; the address is announced again."),
    E("fence.refused", "error warning", "reason", "The kernel refused the rules that end the address with its lease.",
      "The reason is the kernel's: nf_tables with the netdev family, and CAP_NET_ADMIN."),
    E("fence.rebuilt", "info", "", "The rules that end the address with its lease were gone, and are there again."),
    E("relay.started", "info", "pid", "A relay process runs."),
    E("relay.ready", "info", "listeners", "A relay process listens at all its ports."),
    E("relay.died", "error", "status reason restart_ms", "A relay process died, and is started again. Its connections "
      "are lost; clients connect anew.", "Status -9 without a reason: look for the OOM killer in the kernel's log."),
    E("relay.dismissed", "info", "worker pid", "A reload: a relay process that is needed no more has ended."),
    E("relay.degraded", "warning", "listening workers reason", "Some relay processes do not listen.",
      "The reason says why; usually another program has the port."),
    E("relay.listen-failed", "error", "listener host port reason", "A port can't be listened at; it is tried again.",
      "'ss -lntup' shows who has it."),
    E("relay.limits-cut", "warning", "reason", "There are fewer file descriptors than the file's maxconn needs.",
      "Raise LimitNOFILE of the service, or lower maxconn."),
    E("relay.switched", "info", "route epoch connections_closed flows_closed took_us", "Traffic goes to another server "
      "now; connections of the former one were closed."),
    E("diversion.refused", "error", "reason", "The kernel refused rules that forward; the relay does the work until it "
      "takes them.", "The reason is the kernel's. 'forward proxy' needs nothing of it."),
    E("diversion.mended", "info", "", "The kernel forwards again."),
    E("diversion.expelled", "info", "service connections roused", "Flows of the former server were ended; so many "
      "clients were told."),
    E("conntrack.warning", "warning", "reason", "The kernel's table of flows is nearly full, or its settings do harm.",
      "The reason names the sysctl."),
    E("neighbour.refused", "debug", "server reason", "A server's MAC could not be asked for; it is tried again."),
    E("server.resolved", "info", "server mac", "A server's MAC is known: 'forward direct' can reach it."),
    E("server.unresolved", "warning", "server", "A server does not answer ARP or neighbour solicitation; the relay "
      "carries its traffic.", "Is that host up, and on the gateway's own segment?"),
    E("server.not-direct", "warning", "server reason", "A server can't be reached by 'forward direct'; the relay "
      "carries its traffic.", "Put it on the gateway's segment, or take another 'forward'."),
    E("receiving.begun", "info", "addresses", "This manager holds the pool's addresses on lo, for 'forward direct'."),
    E("receiving.ended", "info", "address connections left", "Another manager was elected; connections of clients here "
      "were closed. 'left' could not be.", "Where 'left' is not 0 those clients wait for a timeout of theirs."),
    E("receiving.orphans-ended", "info", "connections left", "Another manager was elected; what gateways had "
      "translated to this one was closed."),
    E("receiving.refused", "error", "reason", "The kernel refused what this manager needs to take traffic.",
      "The reason is the kernel's; the gateways' relay carries the traffic meanwhile."),
    E("return.routed", "info", "gateways", "Answers to clients go back through these gateways ('transparent')."),
)  # fmt: skip
