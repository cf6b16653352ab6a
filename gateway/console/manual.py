"""The man pages, from the same text as the help and the same table as the parser: nothing is said twice. Pure."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from gateway import __version__
from gateway.config.keywords import SECTIONS
from gateway.config.schema import Argument as FileArgument
from gateway.config.schema import Keyword, Kind
from gateway.config.values import format_ms
from gateway.console.command_tree import Argument, Command
from gateway.console.log_events.manual import EVENTS_PAGE, events_page
from gateway.console.roff import Page, bold, italic
from gateway.doctor.checks import CHECKS

PROGRAM_PAGE: Final = "condor-gateway.1"
FILE_PAGE: Final = "gateway.cfg.5"
_VERSION: Final = f"condor-gateway {__version__}"

STATUSES: Final = (
    ("0", "done; for doctor: no error was found"),
    ("1", "refused, with the reason on standard error; for doctor: an error was found; for check: the file is invalid"),
    ("2", "the command line itself is wrong; for check: the file is valid, and there is nothing to serve in it"),
    ("130", "interrupted (SIGINT)"),
)
_BORROWING: Final = ("defaults", "listen")  # sections of other sections' keywords
_FILES: Final = (
    ("/etc/condor-gateway/gateway.cfg", "the configuration, the same on every node: gateway.cfg(5)"),
    ("/etc/condor-gateway/cluster.key", "the cluster's keys, mode 0600; made and rotated by keygen"),
    ("/var/lib/condor-gateway/", "state-dir: terms, votes, replicas of the accounting, history; must survive a reboot"),
    ("/var/lib/condor-gateway/admin.sock", "where the commands reach the node of this host; root only"),
    ("LOCAL_CONFIG_DIR/zz-condor-gateway.config", "on managers: what the node sets in HTCondor"),
)


def program_page(tree: Command) -> str:
    """Return condor-gateway(1)."""
    page = Page("condor-gateway", 1, "a highly available HTCondor matchmaker behind one virtual address", _VERSION)
    page.section("SYNOPSIS")
    page.line(f"{bold('condor-gateway')} {italic('COMMAND')} [{italic('OPTION')}...]")
    page.section("DESCRIPTION")
    page.text(
        "Gateways own a virtual address, one at a time, and lead it to the elected central manager of an HTCondor "
        "pool. Every machine of the pool names that address alone. Nodes vote by sealed heartbeats; the elected "
        "manager runs the negotiator, the others hold warm collectors and a copy of the accounting."
    )
    page.text("One configuration file, gateway.cfg(5), is the same on every node. These are the commands:")
    page.section("OPTIONS")
    page.item(f"{bold('-h')}, {bold('--help')}", "of the program and of each command: what it does and takes, in short")
    page.item(bold("--version"), "the version, and no more")
    page.section("COMMANDS")
    for command in tree.walk():
        if command.words:
            _command(page, command)
    page.section("FINDINGS")
    page.text(
        "What doctor looks at, by the names of its findings. Each says on the spot what is wrong, and its remedy."
    )
    for check in CHECKS:
        page.item(bold(check.name), (check.find.__doc__ or check.fine).splitlines()[0])
    page.section("EXIT STATUS")
    for status, meaning in STATUSES:
        page.item(bold(status), meaning)
    page.section("ENVIRONMENT")
    page.item(
        bold("NO_COLOR"), "where it is set and not empty, nothing is coloured; nor is what goes into a pipe or a file"
    )
    page.section("FILES")
    for path, meaning in _FILES:
        page.item(italic(path), meaning)
    page.section("SEE ALSO")
    page.line(f"{bold('gateway.cfg')}(5), {bold('condor_config_val')}(1), {bold('nft')}(8)")
    return page.render()


def _command(page: Page, command: Command) -> None:
    page.subsection(" ".join(command.words))
    if not command.commands:
        page.line(_synopsis(command))
    page.text(command.description)
    for argument in command.arguments:
        if argument.flags == ("-h", "--help"):
            continue
        said = argument.help
        if argument.choices and not all(choice in said for choice in argument.choices):
            said = f"{said}{': ' if said else ''}one of {', '.join(argument.choices)}"
        page.item(_tag(argument), said or argument.value)
    if command.examples:
        page.example(command.examples)


def _synopsis(command: Command) -> str:
    words = [bold(" ".join(("condor-gateway", *command.words)))]
    words += [f"[{italic('OPTION')}...]"] if len(command.options) > 1 else []
    for argument in command.positionals:
        name = italic(argument.value) + ("..." if argument.many else "")
        words.append(f"[{name}]" if argument.optional else name)
    return " ".join(words)


def _tag(argument: Argument) -> str:
    value = f" {italic(argument.value)}" if argument.value else ""
    if not argument.flags:
        return italic(argument.value)
    return ", ".join(bold(flag) for flag in argument.flags) + value


# ---- gateway.cfg(5)


def file_page() -> str:
    """Return gateway.cfg(5)."""
    page = Page("gateway.cfg", 5, "configuration of condor-gateway", _VERSION)
    page.section("DESCRIPTION")
    page.text(
        "The file is the same on every node of a cluster; each finds itself in it by its host name or its address. The "
        "language is HAProxy's: sections, and in each one keyword a line. 'condor-gateway check' says everything that "
        "is wrong with a file, with line and column."
    )
    page.section("LANGUAGE")
    page.text(
        "A section begins with its word at the beginning of a line, most with a name after it. Words are parted by "
        "blanks. '#' begins a comment. A backslash makes the next character plain; 'single quotes' keep everything as "
        'it is; "double quotes" keep blanks and #, and expand $NAME, ${NAME} and ${NAME-default} from the environment.'
    )
    page.text(
        "A time is a whole number with a unit: us, ms, s, m, h, d. Without a unit it is milliseconds, as in HAProxy. "
        "An address is a literal, never a name: an election waits for no name server. IPv6 stands in brackets before a "
        "port."
    )
    for section in SECTIONS.values():
        page.section(f"SECTION {section.word}{' NAME' if section.named else ''}")
        page.text(f"{section.help[:1].upper()}{section.help[1:]}.{_how_often(section.required, section.single)}")
        elsewhere: dict[str, list[str]] = {}
        for keyword in section.keywords.values():
            place = _described_in(section.word, keyword)
            if place == section.word:
                _keyword(page, keyword)
            else:
                elsewhere.setdefault(place, []).append(keyword.name)
        for place, names in elsewhere.items():
            page.text(f"As in section {place}: {', '.join(names)}.")
    page.section("SEE ALSO")
    page.line(f"{bold('condor-gateway')}(1)")
    return page.render()


def _described_in(word: str, keyword: Keyword) -> str:
    """Return the section in which a keyword is described: what several sections take is said in one of them."""
    if word not in _BORROWING:
        return word
    for other, section in SECTIONS.items():
        if other not in _BORROWING and section.keywords.get(keyword.name) == keyword:
            return other
    return word


def _how_often(required: bool, single: bool) -> str:
    return f" {'Required' if required else 'Optional'}{', and may stand once' if single else ''}."


def _keyword(page: Page, keyword: Keyword) -> None:
    facts = ["required" if keyword.required else "", "" if keyword.once else "may be repeated"]
    tail = ", ".join(fact for fact in facts if fact)
    page.item(bold(keyword.name) + _usage(keyword), f"{keyword.help}{f' ({tail})' if tail else ''}.")
    for argument in keyword.arguments:
        said = _said_of(argument)
        if said:
            page.more(f"{argument.name.upper()}: {said}.")
    for option in keyword.options:
        value = f" {option.argument.name.upper()}" if option.argument else ""
        said = _said_of(option.argument) if option.argument else ""
        page.more(f"{option.word}{value}: {option.help}{f'; {said}' if said else ''}.")


def _usage(keyword: Keyword) -> str:
    """Return what stands behind a keyword's name."""
    rest = keyword.usage().removeprefix(keyword.name).strip()
    return f" {italic(rest)}" if rest else ""


def _said_of(argument: FileArgument) -> str:
    """Return what an argument can be: its kind, its limits with their reasons, its default."""
    said = [f"one of {', '.join(argument.choices)}" if argument.choices else argument.kind.value]
    if argument.kind in {Kind.DURATION, Kind.COUNT, Kind.AUTO_COUNT} and argument.high:
        said.append(f"{_bound(argument, argument.low)} to {_bound(argument, argument.high)}")
        reasons = (("less", argument.low_reason), ("more", argument.high_reason))
        said += [f"not {side}: {reason}" for side, reason in reasons if reason]
    if argument.default is not None:
        said.append(f"default {argument.default}")
    return "; ".join(said)


def _bound(argument: FileArgument, value: int) -> str:
    return format_ms(value) if argument.kind is Kind.DURATION else str(value)


def pages(tree: Command) -> Mapping[str, Callable[[], str]]:
    """Return how each page is made, by the name of its file."""
    made = {PROGRAM_PAGE: lambda: program_page(tree), FILE_PAGE: file_page, EVENTS_PAGE: events_page}
    return MappingProxyType(made)
