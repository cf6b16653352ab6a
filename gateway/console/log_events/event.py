"""What is known of one event of the log."""

from typing import NamedTuple


class LogEvent(NamedTuple):
    """One event. `levels` and `fields` are words parted by blanks; `action` "" where there is nothing to do."""

    name: str
    levels: str
    fields: str
    meaning: str
    action: str = ""
