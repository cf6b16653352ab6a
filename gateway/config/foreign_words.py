"""What the tables of foreign words are made of: groups of words that have one answer. Knows no word itself.

An answer completes the sentence `'word' ...`: who knows it, and what to write instead. It never ends in a full stop.
"""

from collections.abc import Mapping
from types import MappingProxyType

HAPROXY = "is known in HAProxy, not here"
KEEPALIVED = "is known in keepalived, not here"
CONDOR = "is known in HTCondor, not here"
LATER = "is not in this version"

NO_HTTP = f"{HAPROXY}: HTCondor's clients do not speak HTTP"
NO_TLS = f"{HAPROXY}: HTCondor encrypts by itself, and bytes pass verbatim"
VERBATIM = f"{HAPROXY}: bytes pass verbatim, nothing is matched on"
ALL_TO_ONE = f"{HAPROXY}: all clients go to the elected manager"

Words = Mapping[str, str]


def words(*groups: tuple[str, str]) -> Words:
    """Return answers by word; a group is words parted by blanks, and their answer."""
    return MappingProxyType({word: answer for written, answer in groups for word in written.split()})
