"""Events of managers: collector, negotiator, warm standbys, accounting and its replicas."""

from typing import Final

from gateway.console.log_events.event import LogEvent as E

_OTHER_MANAGERS: Final = "Is that manager's node up, and its TCP port of the 'peer' line open? It is tried again."
_DISK: Final = "Look at the disk of state-dir: room, errors, rights."

EVENTS: Final = (
    E("matchmaker.serving", "info", "term", "This manager's negotiator matches jobs now."),
    E("matchmaker.fitness", "info", "fit reason", "Whether this manager could be elected has changed.",
      "Where it is not fit the reason says what is missing."),
    E("matchmaker.failed", "error", "reason cool_off_ms", "This manager could not do its part, gave up, and is no "
      "candidate for a while.", "The reason; then HTCondor's MasterLog and NegotiatorLog on this host."),
    E("matchmaker.failed-while-paused", "warning", "reason", "This manager could not do its part, and tries again: the "
      "cluster is paused, so nobody would follow.", "The reason; 'condor-gateway resume' lets another one take over."),
    E("matchmaker.deaf", "error", "reason", "HTCondor on this manager does not listen where 'forward direct' sends.",
      "The reason names the line of HTCondor's configuration."),
    E("matchmaker.hears", "info", "", "It does now."),
    E("negotiator.started", "info", "pid took_ms", "The negotiator runs."),
    E("negotiator.stopped", "info", "took_ms", "The negotiator has ended."),
    E("negotiator.killed", "warning", "pid", "The lease was over: the negotiator was killed, not asked."),
    E("negotiator.stuck", "error", "reason", "The negotiator did not end. Until it does this manager leads nothing.",
      "Look at the process: a file server that does not answer holds it (state D)."),
    E("negotiator.latecomer", "warning", "pid", "A negotiator appeared when none was wanted any more, and was ended."),
    E("negotiator.orphan", "warning", "pid parent", "A negotiator without a condor_master was there, and was ended."),
    E("negotiator.left-alone", "warning", "reason", "The node does not start or stop this manager's negotiator.",
      "Write 'negotiator on-elected', unless something else makes sure that only one runs."),
    E("negotiator.address_not_written", "warning", "file reason", "The file with the negotiator's address could not be "
      "written; tools on this host may not find it.", "The reason is the operating system's."),
    E("collector.up", "info", "instance", "This manager's collector answers."),
    E("collector.down", "warning", "reason", "This manager's collector does not answer; if it is elected it gives up.",
      "Look at CollectorLog and MasterLog on this host."),
    E("collector.instance", "info", "instance before", "The collector was started anew: it has forgotten its ads."),
    E("collector.census-failed", "warning", "reason", "The ads of this manager's collector could not be counted.",
      "The reason; standbys are not compared until it works."),
    E("collector.refreshed", "info", "daemons silent asked failed took_ms", "The pool's daemons were asked to send "
      "their ads again, after a gateway died with some of them."),
    E("collector.refresh-failed", "warning", "reason", "That did not work; ads come at their own intervals."),
    E("standby.forwarding", "info", "standby open", "The collector's ads go to this standby, or can't (open: false)."),
    E("standby.primed", "info", "complete lacking unreachable ads asked took_ms", "All ads were given to standbys."),
    E("standby.prime-failed", "warning", "reason", "Ads could not be given to standbys; it is tried again.",
      "The reason; often HTCondor's security lists (ALLOW_ADVERTISE_*) on the standby."),
    E("standby.lacks", "info", "standby ads", "A standby lacks ads that it should have had by now; they are sent."),
    E("standby.ads-invalidated", "info", "standby ads first", "A standby had ads of daemons that are gone; removed."),
    E("standby.census-failed", "info", "standby reason", "A standby's ads could not be counted; it is tried again."),
    E("apart.withdrawn", "warning", "hosts ads", "The network is parted: ads of hosts that can't be reached from here "
      "were withdrawn, so that no job is matched to them.", "Mend the network; they are asked back by themselves."),
    E("apart.asked", "info", "asked failed lacking", "The network is whole: those hosts were asked for their ads."),
    E("apart.not-restarted", "info", "", "The negotiator was not restarted after that: the leadership ended."),
    E("apart.put-off", "warning", "reason", "Ads could not be withdrawn or asked for now; it is tried again."),
    E("accounting.file", "info", "path position sequence", "The accounting file that is shipped to standbys."),
    E("accounting.unfit", "error", "path fault", "HTCondor's accounting file can't be shipped as it is.",
      "The fault names what is wrong with it; the standbys keep what they have."),
    E("accounting.installed", "info", "origin position", "This manager took over with its copy of the accounting."),
    E("accounting.may-be-missing", "warning", "records_min held newest", "This manager had to take over without the "
      "last records of the former one.", "Start the former leader: they are merged as soon as it is back."),
    E("accounting.newer-file-replaced", "error", "kept_in", "A local accounting file that was newer than the cluster's "
      "was replaced: somebody ran a negotiator here by hand.", "It is kept; 'condor-gateway merge' can add it."),
    E("accounting.apart", "info", "standby head base_sent", "A standby holds a history that went on apart; it is "
      "fetched to be merged."),
    E("accounting.merged", "info", "summary", "A history was merged; further fields say what it added."),
    E("accounting.merge-failed", "warning", "origin reason", "A merge failed, and is tried again.", "The reason."),
    E("accounting.unmerged", "error", "origin archive reason", "A history can't be merged; it is in the archive.",
      "Merge it by hand: 'condor-gateway merge', with the files of the archive."),
    E("accounting.not-archived", "error", "archive reason", "The files of a merge could not be archived.", _DISK),
    E("accounting.brought-back", "info", "head", "A merge that was under way at a crash was brought to its end."),
    E("accounting.not-brought-back", "error", "path reason", "What was left of a merge at a crash can't be used.",
      "The files are where 'path' says; 'condor-gateway merge' can merge them."),
    E("merge.done", "info", "order", "The merging process has finished an order; further fields are its result."),
    E("merge.reports.unwritten", "warning", "status", "The merging process could not write its report.", _DISK),
    E("history.pending", "warning", "position leader", "This manager holds accounting that the leader lacks; it is "
      "kept aside until it is merged."),
    E("history.merged", "info", "position", "The leader has merged it; it is archived here."),
    E("history.given-up", "info", "position", "The leader can't merge it; it is archived here.",
      "'condor-gateway status' on the leader shows the reason."),
    E("history.not-archived", "error", "position reason", "It could not be archived, and stays.", _DISK),
    E("journal.damaged", "error", "path detail", "This manager's copy of the accounting is damaged; it takes a whole "
      "one from the leader.", _DISK),
    E("journal.cut-off", "warning", "position", "The end of the copy was torn by a crash, and was cut off."),
    E("journal.previous-taken", "warning", "", "A crash came while the copy was replaced; the one before is used."),
    E("journal.former-damaged", "error", "path detail", "An older generation of the copy is damaged, and is left out.",
      _DISK),
    E("journal.lead-damaged", "error", "path detail", "What this manager knew of its own leadership can't be read.",
      _DISK),
    E("stream.lost", "warning", "standby reason", "The accounting does not reach a standby.", _OTHER_MANAGERS),
    E("stream.ended", "info", "sender reason", "The leader's stream of accounting ended here."),
    E("stream.snapshot", "info", "standby position", "A standby gets the whole accounting."),
    E("stream.snapshot-kept", "info", "origin position", "This standby has taken the whole accounting."),
    E("stream.not-stored", "error", "reason", "This standby can't store the accounting.", _DISK),
    E("stream.declined", "warning", "standby what reason", "A standby declined a file.", "The reason."),
    E("stream.file-installed", "info", "name bytes", "A file of 'replicate file' was brought up to date here."),
    E("stream.file-not-installed", "warning", "name reason", "It could not be.", "The reason: rights, room."),
    E("stream.file-unwanted", "warning", "name", "The leader offers a file that this node's file does not name.",
      "The same configuration belongs on every node."),
    E("stream.fork-not-kept", "warning", "position reason", "A common base could not be kept here; a later merge may "
      "need it.", _DISK),
    E("stream.fork-unreadable", "warning", "position reason", "A common base could not be read here.", _DISK),
    E("stream.fork-too-long", "warning", "position bytes", "A common base is too long to be sent.",
      "The accounting file has grown beyond what is replicated."),
    E("stream.fetch-unreadable", "info", "position reason", "A history that was asked for could not be read."),
    E("stream.history-fetched", "info", "standby head base", "A standby's own history has arrived, to be merged."),
    E("stream.history-missing", "warning", "standby head", "A standby could not give a history that it had named.",
      "The log of that manager says why."),
    E("advertise.failed", "warning", "reason", "This gateway's ad could not be given to the collector; it is tried "
      "again.", "The reason; often ALLOW_ADVERTISE_MASTER or the security settings of the collector."),
    E("files.unfit", "warning", "path fault", "A file of 'replicate file' can't be shipped as it is.", "The fault."),
)  # fmt: skip
