"""The configuration that a node runs by, as others may ask for it. No secret is in it: keys are in a file of their own.

Rule: two nodes have the same configuration exactly when their digests are equal, whatever comments, order of unrelated
sections and spelling of times their files have.
"""

import hashlib
from typing import Any

import msgspec

from gateway.config.settings import Settings

SCHEMA = 1


def digest(settings: Settings) -> str:
    """Return 16 hexadecimal digits that stand for `settings`."""
    return hashlib.sha256(msgspec.json.encode(settings, order="deterministic")).hexdigest()[:16]


def describe(settings: Settings, file: str) -> dict[str, Any]:
    """Return what the `config` command answers; `restore` reads its `settings`."""
    return {
        "schema": SCHEMA,
        "file": file,
        "digest": digest(settings),
        "settings": msgspec.to_builtins(settings, order="deterministic"),
    }


def restore(document: dict[str, Any]) -> Settings:
    """Return the settings of another process' answer.

    Raises:
        msgspec.ValidationError: another version's settings.
    """
    return msgspec.convert(document["settings"], Settings)
