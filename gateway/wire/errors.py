"""Malformed: the one error that a decoder of network bytes may raise. Its reason is a counter's label."""

import enum


class Reason(enum.StrEnum):
    """Why bytes from outside were refused. Stable names: they are metric labels."""

    TOO_SHORT = "too-short"
    TOO_LONG = "too-long"
    BAD_MAGIC = "bad-magic"
    UNKNOWN_VERSION = "unknown-version"
    UNKNOWN_KEY = "unknown-key"
    WRONG_CLUSTER = "wrong-cluster"
    UNKNOWN_PEER = "unknown-peer"
    BAD_SEAL = "bad-seal"
    REPLAYED = "replayed"
    STALE_BOOT = "stale-boot"
    BAD_PAYLOAD = "bad-payload"
    BAD_SEQUENCE = "bad-sequence"
    BAD_CHECKSUM = "bad-checksum"


class Malformed(ValueError):  # noqa: N818 (the project's word for it)
    """Bytes from the network that do not hold what they should. Counted by `reason`, never trusted."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
