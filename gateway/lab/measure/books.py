"""The accounting around the loss of an elected manager: edited right before it, and read before and after.

What an administrator was told is done must be there afterwards, and nobody is charged for more or less than he had.
"""

import time
from collections.abc import Callable
from typing import Any

import msgspec
import trio

from gateway.lab.errors import LabError
from gateway.lab.measure import accounts, observe
from gateway.lab.measure.accounts import Edited
from gateway.lab.measure.load import SUBMIT_HOST
from gateway.lab.measure.userprio import Edit, Kind, Prio
from gateway.lab.pool import Lab
from gateway.lab.topology import DOMAIN, System

Progress = Callable[[str], None]

ACCOUNTING_FILE = "/var/spool/condor/Accountantnew.log"
SETTLED_S = 0.3  # between the acknowledgement of all edits but the last and the fault
ANSWER_S_MAX = 60.0
FIT_S_MAX = 60.0
RECOVERED_S_MAX = 10.0  # after the manager's return: what it alone had written may come to light
LOOK_S = 0.5


def edits_of(repeat: int, before: Prio) -> tuple[list[Edit], Edit]:
    """Return what is edited before a fault, and what at the last moment; nothing that shows already."""
    wanted = [
        Edit(Kind.FACTOR, f"chemist@{DOMAIN}", 1000 + repeat),
        Edit(Kind.CEILING, f"biologist@{DOMAIN}", 5000 + repeat),  # far above all slots: it holds nobody back
        Edit(Kind.FACTOR, f"newcomer{repeat}@{DOMAIN}", 2000),
        Edit(Kind.USAGE, f"newcomer{repeat}@{DOMAIN}", 3000),
    ]
    wanted = [_new(edit, before) for edit in wanted]
    former = f"newcomer{repeat - 1}@{DOMAIN}"
    if former in before.customers:
        wanted.append(Edit(Kind.DELETE, former))
    return wanted, _new(Edit(Kind.FACTOR, f"latecomer{repeat}@{DOMAIN}", 4000), before)


def _new(edit: Edit, before: Prio) -> Edit:
    while edit.shows_in(before):
        edit = msgspec.structs.replace(edit, value=edit.value + 1)
    return edit


class Books:
    """The accounting around one fault: `open` right before it, `close` at the end of the watch, then `figures`."""

    def __init__(self, lab: Lab, say: Progress) -> None:
        self._lab = lab
        self._say = say
        self._logs = observe.Logs(lab)  # without a mark: claims from before count too
        self._victim = ""
        self._fault_at = 0.0
        self._before: Prio | None = None
        self._after: Prio | None = None
        self._edited: list[Edited] = []
        self._last: Edited | None = None
        self._written: bool | None = None

    async def open(self, victim: str, repeat: int) -> None:
        """Read the accounts and edit them on the manager that is to be broken; return right after the last edit."""
        self._victim = victim
        self._before = await accounts.ask_until(self._lab, SUBMIT_HOST, ANSWER_S_MAX)
        if self._before is None:
            self._say("condor_userprio gives no answer: nothing is edited")
            return
        edits, last = edits_of(repeat, self._before)
        try:
            for edit in edits:
                self._edited.append(await accounts.edit(self._lab, victim, edit))
            await trio.sleep(SETTLED_S)
            self._last = await accounts.edit(self._lab, victim, last)
        except LabError as error:
            self._say(str(error))

    async def close(self, fault_at: float) -> None:
        """Read the accounts again, while the broken manager is still away."""
        self._fault_at = fault_at
        self._after = await accounts.ask_until(self._lab, SUBMIT_HOST, ANSWER_S_MAX)
        self._written = self._has_written()

    def _has_written(self) -> bool | None:
        if self._last is None:
            return None
        edit = self._last.edit
        text = self._lab.file(self._victim, ACCOUNTING_FILE).read_text(errors="replace")
        return f"103 Customer.{edit.user} PriorityFactor {edit.value}" in text

    async def figures(self) -> dict[str, Any]:
        """Return the fields of a result, after waiting for the broken manager to be fit again."""
        if self._before is None or self._after is None:
            return {}
        returned = await self._returned()
        audit = accounts.witnesses(self._lab, self._logs, {self._victim: self._fault_at}).compare(
            self._before, self._after
        )
        last = self._last
        return {
            "usage_error_s": audit.error_s,
            "usage_bound_s": audit.bound_s,
            "usage": audit.users,
            "edits_made": len(self._edited),
            "edits_lost": accounts.missing(self._edited, self._after),
            "edits_lost_after_return": accounts.missing(self._edited, returned),
            "last_edit_ms": None if last is None else (self._fault_at - last.at) * 1000,
            "last_edit_written": self._written,
            "last_edit_kept": None if last is None else last.edit.shows_in(self._after),
            "last_edit_kept_after_return": None if last is None or not returned else last.edit.shows_in(returned),
        }

    async def _returned(self) -> Prio | None:
        """Read the accounts once the mended manager is fit, and once more as long as its last edit does not show."""
        limit = time.time() + FIT_S_MAX
        while time.time() < limit:
            seen = await observe.view(self._lab)
            if seen.leader is not None and self._victim not in seen.managers_unfit:
                break
            await trio.sleep(LOOK_S)
        limit = time.time() + (RECOVERED_S_MAX if self._lab.topology.system is System.OURS else 0.0)
        while True:  # ends when the last edit shows, or at the limit
            found = await accounts.ask(self._lab, SUBMIT_HOST)
            shows = found is not None and (self._last is None or self._last.edit.shows_in(found))
            if shows or time.time() >= limit:
                return found
            await trio.sleep(LOOK_S)
