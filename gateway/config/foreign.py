"""Words that operators know from HAProxy, keepalived or HTCondor, and that are not words here: who knows which.

Rule: a word that has an answer is never called unknown. The words stand in tables of their own, by where they are from.
"""

from collections.abc import Mapping
from types import MappingProxyType

from gateway.config.foreign_haproxy import KEYWORDS as HAPROXY_KEYWORDS
from gateway.config.foreign_haproxy import OPTIONS, PREFIXES, STATS, TIMEOUTS
from gateway.config.foreign_haproxy import SECTIONS as HAPROXY_SECTIONS
from gateway.config.foreign_options import LINE_OPTIONS
from gateway.config.foreign_others import (
    KEEPALIVED_KEYWORDS,
    KEEPALIVED_PREFIXES,
    KEEPALIVED_SECTIONS,
    condor_answer,
)
from gateway.config.foreign_words import LATER, Words, words

_WAY = "is a way to forward"

_OURS = words(  # words of this program's own, where they do not stand
    ("transparent", "stands behind the way to forward: write 'forward proxy transparent' in the backend"),
    ("direct", f"{_WAY}: write 'forward direct'"),
    ("nat", f"{_WAY}: write 'forward nat'"),
    ("check no-check inter rise fall backup no-backup", "stands after a server, or after 'default-server'"),
    ("weight", "is known in HAProxy and keepalived, not here: the order of the servers is the order of preference"),
    ("dev", "stands after the address, as in 'ip 10.0.0.100/32 dev eth0'"),
    ("proto", "stands after a bind, as in 'bind pool-vip:9618 proto tcp,udp'"),
    ("gateway manager witness", "is the role of a peer: write 'peer NAME ADDRESS:PORT ROLE' in the peers section"),
)
_OUR_SECTIONS = words(
    ("election", f"{LATER}: heartbeat and lease stand in the peers section"),
    ("replication", f"{LATER}: write 'replicate accounting' in the backend"),
    ("pool", f"{LATER}: write a backend"),
)
_REPLICATED = words(
    ("spool", f"{LATER}: write 'replicate accounting', and 'replicate file PATH' for each other file"),
)

_SECTIONS = {**HAPROXY_SECTIONS, **KEEPALIVED_SECTIONS, **_OUR_SECTIONS}
_KEYWORDS = {**KEEPALIVED_KEYWORDS, **HAPROXY_KEYWORDS, **_OURS}  # of a word that two have, HAProxy's answer
_SECOND_WORDS: Mapping[str, Words] = MappingProxyType(
    {"timeout": TIMEOUTS, "option": OPTIONS, "replicate": _REPLICATED, "stats": STATS}
)


def section_answer(word: str) -> str | None:
    """Return what to say of a section that is known elsewhere; None where nobody knows it."""
    return _SECTIONS.get(word)


def keyword_answer(word: str, follower: str = "") -> tuple[str, str] | None:
    """Return a keyword that is known elsewhere, and what to say of it; None where nobody knows it.

    Args:
        word: the first word of a line.
        follower: its second.
    """
    answer = _KEYWORDS.get(word)
    if answer is None:
        answer = next((told for prefix, told in _PREFIXES if word.startswith(prefix)), None)
    return (word, answer) if answer is not None else condor_answer(word, follower)


def second_answer(first: str, second: str) -> str | None:
    """Return what to say of a keyword of two words, as `timeout server`; None where nobody knows it."""
    return _SECOND_WORDS.get(first, {}).get(second)


def option_answer(keyword: str, word: str) -> str | None:
    """Return what to say of an option of a line of `keyword`; None where nobody knows it."""
    return LINE_OPTIONS.get(keyword, {}).get(word)


def foreign_options(keyword: str) -> frozenset[str]:
    """Return the words that others have as options of a line of `keyword`."""
    return frozenset(LINE_OPTIONS.get(keyword, {}))


_PREFIXES = (*PREFIXES.items(), *KEEPALIVED_PREFIXES.items())
