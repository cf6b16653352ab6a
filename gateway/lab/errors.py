"""Errors of the lab: what a user of it can do something about. Every message is one sentence with the fix."""


class LabError(Exception):
    """The lab cannot do what it was asked. The message says why, and what would help."""
