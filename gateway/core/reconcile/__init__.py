"""Reconcile: one accounting history out of several that went on from a common base. Pure: no clock, no I/O, no chance.

    merged = reconcile(base, sides)        (base, ours, theirs) is the common case; any number of sides will do

The rules, and why nobody's usage is lost or counted twice
----------------------------------------------------------
1.  *What may be merged.* Sides continue the base: the same birthdate, no fewer compactions, not charged earlier. All
    else is refused (`NotContinued`): the differences below mean nothing between strangers.
2.  *Order.* Sides are put in order by what they are, never by who calls: the higher term, then the later update, then
    the greater content. The best one is the *survivor*. Equal histories are one history, not two; one that equals the
    base has added nothing. If one is left, it is the result as it stands; with none, the base is: hence
    reconcile(B, B, B) = B, reconcile(B, X, B) = X, reconcile(B, X, X) = X. Everything below is a function of that
    ordered list, so the order of the arguments changes no byte.
3.  *Settling.* A file is the truth of its last update, with corrections since then put aside (UnchargedTime). Base and
    sides are first charged up to the last moment that they know of (`gateway.core.reconcile.settle`); the survivor up
    to the merge, t* = the latest of all, for its matches go on: the next negotiator charges from LastUpdateTime = t*,
    so that no second is charged twice or never. Counters are those of the Resource records, as at a negotiator's start.
4.  *Accumulators* only grow, and each side's growth is its own: U* = U_B + sum (U_s - U_B). A side that was reset
    counts from nothing: if any was, the base's amount is forgotten, sum U_r + sum (U_s - U_B), whose begin is the
    earliest reset. For one reset that is the same sum, so that one can't be got wrong by not being noticed. Settings
    to a lower amount (-setaccum) on two sides are a conflict; upwards they can't be told from usage, and add.
5.  *Settings* (PriorityFactor, Ceiling, Floor) are one thing with their lease and the value to come back after it.
    Leases that have run out at t* are undone before anything is compared. A default that is written when it is read is
    no edit. Attributes that are not known here are treated alike: changed on one side, that side's; on several sides
    and equal, that; differently, the best side's, and both are reported as a conflict.
6.  *Deletion* stands, unless another side used something since (the record comes again with that usage alone, at the
    lowest priority plus what that usage made) or a better side edited it (the record stays). Both are reported.
7.  *Trap (a), the phantom gap.* A side that took over on a copy of the base charges at its start the whole gap since
    then at the base's matches, while the other side charged the same slots in truth. Where another side ran on, its
    word counts for as long as it ran; of several that took over, the longest gap counts once.
8.  *Trap (b), stale claims.* A collector shows slots that it can't hear any more, as claimed, for up to
    CLASSAD_LIFETIME. A claim of the base, on a startd of which this side's records know nothing at the end but
    another's do, was such a one: `stale_s` of it, or what was really seen (`dropped_s`), is taken off this side.
9.  *Trap (c), shared startds.* A claim (slot and user) that several sides hold was charged by each from its beginning,
    or the base, until its end: what these intervals have more than their union is taken off.
10. *One pool after all.* Where two sides hold (all but) the same claims, their collectors heard the same startds all
    the time, ended claims too: then the greater charge of the two counts for each customer, not the sum. Claims of
    the base are no evidence for that while they may still be stale ones.
    No correction takes more than what several sides charged: the greatest charge of a side always stays.
11. *Priorities* decay and follow usage, linearly but for the floor of 0.5; so what disjoint usage adds, adds:
    P* = max(0.5, P_B decayed) + sum e_s decayed to t*, e_s = P_s - max(0.5, P_B decayed to t_s), less what rules 7 to
    10 take off. Each floor errs by 0.5 at most, and so does the sum. A priority below what decay leaves, or above what
    usage explains, was set (-setprio): it takes the base's place; two different ones are a conflict.
12. *What is derived* is not merged: the survivor's Resource records stand, and the counters of matches follow from
    them. Header: the greatest sequence plus one, the base's birthdate.
13. *Balance.* For every customer and both accumulators, in whole millionths of a slot-second:
    merged = base - forgotten + sum charged - phantom - stale - shared. The report says each term (`Tally.balance` = 0).

Sources: src/condor_negotiator.V6/Accountant.cpp, src/condor_utils/classad_log.cpp.
"""

from gateway.core.reconcile.gains import Gains
from gateway.core.reconcile.merge import Merged, Reconciliation, reconcile
from gateway.core.reconcile.report import CustomerReport, Edit, Fate, Report, SideReport, Tally, View
from gateway.core.reconcile.sides import NotContinued, Pool, Side

__all__ = [
    "CustomerReport",
    "Edit",
    "Fate",
    "Gains",
    "Merged",
    "NotContinued",
    "Pool",
    "Reconciliation",
    "Report",
    "Side",
    "SideReport",
    "Tally",
    "View",
    "reconcile",
]
