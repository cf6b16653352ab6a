"""The schema of the language: what a section, a keyword, an option and an argument can be. The table is elsewhere.

Values only, so that readers of values need not know the keywords.
"""

import enum
from collections.abc import Mapping
from types import MappingProxyType

import msgspec


class Kind(enum.Enum):
    """How an argument is read; `gateway.config.values` has one reader for each."""

    NAME = "a name"
    CHOICE = "one of a few words"
    PATH = "an absolute path"
    DURATION = "a time"
    COUNT = "a whole number"
    AUTO_COUNT = "auto or a whole number"
    ENDPOINT = "an address and port, as in 10.0.0.1:9619"
    PREFIX = "an address with its prefix length, as in 10.0.0.100/32"
    DEVICE = "a network interface"
    BIND = "the name of an address section and a port, as in pool-vip:9618"
    PROTOCOLS = "tcp, udp or tcp,udp"
    MODE = "an octal mode, as in 660"
    ACCOUNT = "the name of a user or group"
    TEXT = "a word"
    LISTEN = "an address and port to listen on, as in 127.0.0.1:9620"
    HOST = "the name of a host, as a browser writes it"


class Argument(msgspec.Struct, frozen=True, kw_only=True):
    """One argument. `low` and `high` bound a COUNT, or a DURATION in milliseconds, for these reasons.

    An AUTO_COUNT is `auto` for the word of that name.

    `choices` are the words that are taken; `refused` those known elsewhere, each with the answer to give.
    """

    name: str
    kind: Kind
    choices: tuple[str, ...] = ()
    refused: Mapping[str, str] = MappingProxyType({})
    low: int = 0
    high: int = 0
    low_reason: str = ""
    high_reason: str = ""
    auto: int = 0
    many: bool = False  # takes the rest of the line, at least one word
    default: str | None = None


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """A word that may follow the arguments in any order: a flag, or with `argument` a word and its value."""

    word: str
    help: str
    argument: Argument | None = None
    required: bool = False


class Keyword(msgspec.Struct, frozen=True, kw_only=True):
    """One keyword; a name of two words, such as `timeout connect`, is written as two words."""

    name: str
    help: str
    arguments: tuple[Argument, ...] = ()
    options: tuple[Option, ...] = ()
    once: bool = True  # in its section
    required: bool = False

    def usage(self) -> str:
        """Return how the keyword is written, as in `peer NAME ADDRESS:PORT ROLE...`."""
        words = [self.name]
        words += [argument.name.upper() + ("..." if argument.many else "") for argument in self.arguments]
        for option in self.options:
            written = f"{option.word} {option.argument.name.upper()}" if option.argument else option.word
            words.append(written if option.required else f"[{written}]")
        return " ".join(words)


class SectionKind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of section.

    `named` ones have a name after the section word, `nameable` ones may have; a `single` one may stand only once, a
    `required` one stands; one that `inherits` may name the defaults that it takes from.
    """

    word: str
    help: str
    named: bool
    single: bool
    count_max: int
    required: bool = True
    nameable: bool = False
    inherits: bool = False
    keywords: Mapping[str, Keyword]


def table(*keywords: Keyword) -> Mapping[str, Keyword]:
    """Return keywords by their names, in the order given."""
    return MappingProxyType({keyword.name: keyword for keyword in keywords})
