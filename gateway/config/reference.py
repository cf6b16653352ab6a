"""Reference: every section and keyword of the language with its limits and defaults, as text, from the keyword table.

What the table does not say is not said here: rules over several lines are told by `check`, where they are broken.
"""

import textwrap
from collections.abc import Iterator

from gateway.config.keywords import SECTIONS
from gateway.config.schema import Argument, Keyword, Kind, SectionKind
from gateway.config.values import format_ms

WIDTH = 100


def reference(word: str = "") -> str:
    """Return the text for a section, or for a keyword wherever it stands; for all of them where `word` is "".

    Raises:
        KeyError: nothing has this name.
    """
    if word in SECTIONS:
        return _section(SECTIONS[word])
    if word == "":
        return "\n\n".join(_section(section) for section in SECTIONS.values())
    found = [
        f"in {section.word}:\n" + "\n".join(_keyword(keyword))
        for section in SECTIONS.values()
        for keyword in section.keywords.values()
        if keyword.name == word or keyword.name.split()[0] == word
    ]
    if not found:
        raise KeyError(word)
    return "\n\n".join(found)


def known_words() -> tuple[str, ...]:
    """Return every word that `reference` knows."""
    names = {name for section in SECTIONS.values() for name in section.keywords}
    return tuple(sorted({*SECTIONS, *names, *(name.split()[0] for name in names)}))


def _section(section: SectionKind) -> str:
    name = " NAME" if section.named else " [NAME]" if section.nameable else ""
    parent = " [from DEFAULTS]" if section.inherits else ""
    often = "once" if section.single else f"up to {section.count_max} times"
    lines = [f"{section.word}{name}{parent}", f"    {section.help}; {often}"]
    for keyword in section.keywords.values():
        lines += ["", *_keyword(keyword)]
    return "\n".join(lines)


def _keyword(keyword: Keyword) -> Iterator[str]:
    yield from _wrapped(keyword.usage(), indent=4)
    notes = [note for note in ("required" if keyword.required else "", "" if keyword.once else "several times") if note]
    if keyword.name.startswith("option "):
        notes.append(f"taken back by 'no {keyword.name}'")
    yield from _wrapped(keyword.help + (f" ({', '.join(notes)})" if notes else ""))
    for argument in keyword.arguments:
        if limits := _limits(argument):
            yield from _wrapped(f"{argument.name.upper()}: {limits}")
    for option in keyword.options:
        value = option.argument
        limits = _limits(value) if value is not None else ""
        name = f"{option.word} {value.name.upper()}" if value is not None else option.word
        yield from _wrapped(f"{name}: {option.help}" + (f"; {limits}" if limits else ""))


def _limits(argument: Argument) -> str:
    """Return what an argument may be, where that is not plain from its name."""
    said = []
    if argument.kind is Kind.CHOICE:
        said.append(" | ".join(argument.choices))
    elif argument.kind in {Kind.DURATION, Kind.COUNT, Kind.AUTO_COUNT}:
        show = format_ms if argument.kind is Kind.DURATION else str
        said.append(f"{show(argument.low)} to {show(argument.high)}")
    if argument.default is not None:
        said.append(f"default {argument.default}")
    return ", ".join(said)


def _wrapped(text: str, indent: int = 8) -> list[str]:
    hanging = " " * 12
    return textwrap.wrap(text, WIDTH, initial_indent=" " * indent, subsequent_indent=hanging, break_on_hyphens=False)
