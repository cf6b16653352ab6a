"""Roff: text as man(7) pages write it. Pure; knows the macros of man(7) and nothing of this program.

Rule: text is escaped here and nowhere else, so that no word of it can be read as a macro.
"""


def escape(text: str) -> str:
    """Return text that roff prints as it is, in a line of its own or within one."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    text = text.replace("^", "\\(ha").replace("~", "\\(ti")
    return "\n".join(f"\\&{line}" if line.startswith(".") else line for line in text.splitlines())


def quoted(text: str) -> str:
    """Return text as one argument of a macro."""
    return '"' + escape(text).replace('"', "\\(dq") + '"'


def bold(text: str) -> str:
    """Return text in bold, to stand within a line."""
    return f"\\fB{escape(text)}\\fR"


def italic(text: str) -> str:
    """Return text in italics, to stand within a line: what is to be replaced by a value."""
    return f"\\fI{escape(text)}\\fR"


class Page:
    """A man page, made from its top to its end."""

    def __init__(self, name: str, section: int, title: str, version: str) -> None:
        # No date: the same program makes the same page, on whichever day.
        head = f".TH {quoted(name.upper())} {section} {quoted('')} {quoted(version)} {quoted('condor-gateway manual')}"
        # Words are not parted at hyphens, and lines are not stretched: most of them are commands.
        self._lines = [head, ".nh", ".ad l"]
        self.section("NAME")
        self.text(f"{name} - {title}")

    def section(self, title: str) -> None:
        """Begin a section."""
        self._lines.append(f".SH {quoted(title)}")

    def subsection(self, title: str) -> None:
        """Begin a part of a section."""
        self._lines.append(f".SS {quoted(title)}")

    def text(self, text: str) -> None:
        """Add a paragraph of plain text."""
        self._lines += [".PP", escape(" ".join(text.split()))]

    def line(self, marked: str) -> None:
        """Add a paragraph that is marked up already."""
        self._lines += [".PP", marked]

    def item(self, marked: str, text: str) -> None:
        """Add an item: a tag that is marked up already, and what is said of it."""
        self._lines += [".TP", marked, escape(" ".join(text.split()) or "\\&")]

    def more(self, text: str) -> None:
        """Add a paragraph to the item before."""
        self._lines += [".IP", escape(" ".join(text.split()))]

    def example(self, lines: tuple[str, ...] | list[str]) -> None:
        """Add lines as they would be typed."""
        self._lines += [".PP", ".RS 4", ".nf", *(escape(line) or "\\&" for line in lines), ".fi", ".RE"]

    def render(self) -> str:
        """Return the page."""
        return "\n".join(self._lines) + "\n"
