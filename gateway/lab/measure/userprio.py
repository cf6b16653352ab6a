"""What `condor_userprio -allusers -long` says, and edits of it as values: how each is made, and how it shows. Pure."""

import enum
import re

import msgspec

# Of the negotiator itself: what the collector knows of users is what a negotiator told it a while ago.
ASK = ("condor_userprio", "-negotiator", "-allusers", "-long")
_ATTRIBUTE = re.compile(r"([A-Za-z]+?)(\d*) = (.+)")
_CLOSE = 0.5  # factors are shown with six digits; all that is set here are whole numbers


class Customer(msgspec.Struct, frozen=True, kw_only=True):
    """One user's record. Usage is in slot-seconds, up to `Prio.at`."""

    usage_s: float = 0.0
    weighted_usage_s: float = 0.0
    factor: float = 0.0
    ceiling: int = -1


class Prio(msgspec.Struct, frozen=True):
    """Every user that the negotiator knows (groups are left out), charged up to `at` in unix seconds."""

    at: int
    customers: dict[str, Customer]

    @property
    def usage_s(self) -> float:
        """Return what all users have used."""
        return sum(customer.usage_s for customer in self.customers.values())


def parse(text: str) -> Prio | None:
    """Return what was said; None where it is no answer."""
    fields: dict[str, dict[str, str]] = {}
    # Customers are numbered, one ad for all; since HTCondor 25.14 each has an ad of its own, between empty lines.
    for place, ad in enumerate(text.split("\n\n")):
        for line in ad.splitlines():
            if found := _ATTRIBUTE.fullmatch(line.strip()):
                fields.setdefault(found[2] or f"ad {place}", {})[found[1]] = found[3].strip('"')
    updates = [int(float(one["LastUpdate"])) for one in fields.values() if "LastUpdate" in one]
    if not updates:
        return None
    return Prio(
        max(updates),
        {
            one["Name"]: Customer(
                usage_s=float(one.get("AccumulatedUsage", 0)),
                weighted_usage_s=float(one.get("WeightedAccumulatedUsage", 0)),
                factor=float(one.get("PriorityFactor", 0)),
                ceiling=int(float(one.get("Ceiling", -1))),
            )
            for one in fields.values()
            if "Name" in one and one.get("IsAccountingGroup", "false").lower() != "true"
        },
    )


class Kind(enum.StrEnum):
    """What an administrator can do to a user's record; the values are condor_userprio's options."""

    FACTOR = "-setfactor"
    CEILING = "-setceil"
    USAGE = "-setaccum"
    DELETE = "-delete"


class Edit(msgspec.Struct, frozen=True):
    """One edit of one user's record; `value` is not used by a deletion."""

    kind: Kind
    user: str
    value: int = 0

    @property
    def argv(self) -> tuple[str, ...]:
        """Return the command that makes it."""
        value = () if self.kind is Kind.DELETE else (str(self.value),)
        return "condor_userprio", self.kind.value, self.user, *value

    @property
    def text(self) -> str:
        """Return it as a result names it: "-setfactor chemist@pool 1001"."""
        return " ".join(self.argv[1:])

    def shows_in(self, prio: Prio) -> bool:
        """Whether the record is as this edit left it."""
        found = prio.customers.get(self.user)
        if found is None or self.kind is Kind.DELETE:
            return found is None and self.kind is Kind.DELETE
        match self.kind:
            case Kind.FACTOR:
                return abs(found.factor - self.value) < _CLOSE
            case Kind.CEILING:
                return found.ceiling == self.value
            case _:  # what was used since is added to it
                return found.weighted_usage_s > self.value - _CLOSE
