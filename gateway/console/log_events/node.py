"""Events of a node as such: its life, elections, votes, orders, its children and its console."""

from typing import Final

from gateway.console.log_events.event import LogEvent as E

EVENTS: Final = (
    E("node.started", "info", "roles voters", "This host's node runs."),
    E("node.stopping", "info", "", "The node was asked to end, and hands over what it leads."),
    E("node.ended", "info", "", "The control process has ended in good order."),
    E("node.taken-over", "info", "", "A reload: this process goes on with what the one before it had."),
    E("node.handed-over", "info", "", "A reload: the next process goes on, and this one ends."),
    E("node.warning", "warning", "reason", "Something of this host or file is not as it should be; the node goes on.",
      "The reason says what to do; 'condor-gateway status' shows it for as long as it is so."),
    E("node.slept", "warning", "slept_ms", "This host was suspended. What its node led was given up.",
      "Keep hosts of the cluster from sleeping; a virtual machine that is moved sleeps too."),
    E("node.task-failed", "critical", "task reason trace", "A fault of this program ended the control process. The "
      "guard starts it again, and another node leads meanwhile.", "Report it, with this line."),
    E("reload.asked", "info", "", "A new process wants to take this node over."),
    E("reload.refused", "error", "reason", "The new process does not fit (another file, other peers). Nothing changed.",
      "Change what the reason names, or stop and start the node for it."),
    E("reload.failed", "error", "reason", "A reload came to nothing; the node runs as before.",
      "'condor-gateway reload' prints the same; 'condor-gateway check' looks at the file alone."),
    E("reload.lost", "error", "reason", "The new process did not take what this one had let go, which now ends.",
      "The guard starts the node again. Report it if it is not explained by the reason."),
    E("guard.lost", "error", "", "The guard has ended. The node stops, because nobody could end what it began.",
      "Find out what killed it: it is the parent of the node's processes. systemd starts the service again."),
    E("guard.fenced", "error", "election", "The guard has ended what this node served, because its lease was over and "
      "the control process had not.", "The host is too slow for its lease: see node.slept and late timers in status."),
    E("guard.killed-frozen", "warning", "detail ms_ago", "The control process was stopped (SIGSTOP, a debugger, a "
      "frozen cgroup); the guard told the peers and replaced it.", "Find out who stops processes on this host."),
    E("guard.killed-late", "warning", "detail ms_ago", "The control process ran and was silent for too long; the guard "
      "replaced it.", "The host is too slow: real-time priority (CAP_SYS_NICE), or longer heartbeats."),
    E("guard.killed-hung", "warning", "detail ms_ago", "The control process hung in the kernel; the guard replaced it.",
      "Usually a disk or file server that does not answer: keep the state-dir on a local disk."),
    E("guard.control-ended", "warning", "detail ms_ago", "The control process ended by itself; the guard started it "
      "again.", "The line before it says why: node.task-failed, or a kill by the kernel for want of memory."),
    E("guard.control-not-started", "warning", "detail ms_ago", "The guard could not start a control process, and tries "
      "again.", "The detail is the operating system's: memory, number of processes, a missing file."),
    E("election.won", "info", "election term", "This node was elected, and begins to serve."),
    E("election.lost", "info", "election term cause detail", "This node serves no more. Causes: lease-expired (too few "
      "nodes answered), superseded (a greater term), unfit, requested, suspended.",
      "For lease-expired look at the network and at late timers; for unfit at the line before."),
    E("election.handed-over", "info", "election to term", "A switchover was carried out from this node."),
    E("election.gap-unknown", "warning", "election reason", "A switchover was carried out, and the new leader did not "
      "say how long it took.", "'condor-gateway history' on the new leader has it."),
    E("leader.followed", "info", "election leader term", "Another leader is known now; null: nobody leads."),
    E("peer.returned", "info", "election peer", "A peer is heard again; the leader announces itself to it."),
    E("vote.unwritten", "error", "election term reason", "A vote could not be written to the disk. The process ends, "
      "because it could break its word otherwise.", "Make room on the disk of state-dir, or mend it."),
    E("orders.changed", "info", "version by paused drained", "The cluster was paused or resumed, or nodes were drained "
      "or taken in again."),
    E("orders.replaced", "warning", "version paused drained", "Two orders were given at once at nodes that did not "
      "hear each other; these have lost.", "Give them again if they are still wanted."),
    E("orders.unwritten", "error", "version reason", "Orders could not be written to the disk; this node forgets them "
      "at its next start.", "Make room on the disk of state-dir."),
    E("history.unread", "error", "reason", "The history of changes, or its end, can't be read; it goes on without.",
      "Look at history.jsonl in state-dir; what is left of it may be moved away."),
    E("history.unwritten", "error", "path reason", "Changes of leader can't be written to the history.",
      "Make room on the disk of state-dir."),
    E("link.ended", "info", "reason", "A connection of another node, that asked something, has ended early.",
      "If it goes on: a wrong key, or something that is no node connects to the peers' port."),
    E("door.refused", "info", "reason detail", "A connection to the peers' port was refused.",
      "If it goes on: find out what connects there; only nodes of this cluster should."),
    E("command.failed", "error", "command", "A fault of this program in a command that another node or process gave.",
      "Report it, with this line."),
    E("pump.indirect", "info", "reason", "Heartbeats take a slower way, with this version of trio."),
    E("links.unsteady", "warning", "interrupted_total", "The kernel's list of interfaces changed while it was read, "
      "again and again.", "Something makes and removes interfaces all the time (containers): harmless, but look."),
    E("child.started", "info", "pid", "The console or the herald was started."),
    E("child.ended", "warning", "reason restart_ms", "The console or the herald ended, and is started again.",
      "The election is not touched. The reason, or the line before it, says why."),
    E("console.listening", "info", "host port", "The status page is there."),
    E("console.unavailable", "error", "bind reason", "The status page can't listen at its address.",
      "Another program has the port, or the address is not of this host: change 'bind' of the console section."),
    E("console.read-only", "error", "reason", "The token file can't be used: the page takes no orders.",
      "The reason names what is wrong with 'admin token-file'."),
    E("console.not-started", "error", "reason", "The console can't run at all.", "The reason says what it lacks."),
    E("console.no-events", "info", "reason", "The console gets no events, and looks at the status instead."),
    E("console.login", "info", "source", "Somebody gave the right token on the status page."),
    E("console.login-refused", "warning", "source", "Somebody gave a wrong token on the status page.",
      "If it goes on: who is it? Bind the console to 127.0.0.1."),
    E("console.refused", "info", "path status reason", "The status page refused a request.",
      "If it goes on: the reason says what the page is asked for that it does not do."),
    E("console.crowded", "warning", "source", "The status page has closed a connection at once: this address has too "
      "many, or all together have.", "If it goes on: what at that address connects so often?"),
    E("console.order", "info", "order", "An order was given on the status page."),
    E("console.fault", "error", "path reason exc_info", "A fault of this program in the status page.",
      "Report it, with this line."),
    E("stats.unavailable", "error", "path reason", "A stats socket can't be made.",
      "The folder, the user or the group of the 'stats socket' line does not exist, or something else is at its path."),
    E("stats.failed", "error", "command reason", "A fault of this program in a command on a stats socket.",
      "Report it, with this line."),
    E("notify.told", "info", "seq about command took_ms said", "A command of 'notify' was run for an event."),
    E("notify.failed", "error", "reason seq about command took_ms said", "A command of 'notify' failed or was slow.",
      "Run it by hand as the user of 'notify user'."),
    E("notify.missed", "error", "events", "Events were not told, because 'notify' was behind by too many.",
      "Make the commands shorter, or let them do their work in the background."),
    E("notify.fifo-full", "warning", "seq reason", "Nobody reads the fifo of 'notify'.", "Start its reader."),
    E("notify.no-fifo", "error", "reason", "The fifo of 'notify' can't be used.", "The reason says why."),
    E("notify.not-started", "error", "reason", "The herald can't run.", "The reason says what it lacks."),
    E("log.dropped", "warning", "lines", "So many lines were lost before this one, because nobody took them.",
      "Whatever reads standard output (journald, a pipe) is too slow."),
    E("log.suppressed", "warning", "name lines", "So many more lines of the event 'name' were left out.",
      "What the event itself asks for; it came more often than anybody reads."),
)  # fmt: skip
