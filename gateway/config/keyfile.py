"""Key files: text to keys and back. No message ever repeats what a line holds: it may be a key.

The format: comments (`#`), lines `key ID HEX` with 64 hexadecimal digits, oldest first, and one line `active ID` that
names the key to seal with; all keys open. So a new key is first added everywhere, then made active everywhere, then the
old one goes: between two neighbouring steps each node opens what any other seals.
"""

import re
from collections.abc import Mapping

import msgspec

from gateway.config.diagnostics import ConfigError

KEY_BYTES = 32
KEY_ID_MAX = 255  # one byte of the datagram
KEYS_MAX = 8  # a rotation needs two
TEXT_CHARACTERS_MAX = 65_536

_ID = re.compile(r"[0-9]{1,3}")
_HEX = re.compile(r"[0-9A-Fa-f]*")


class KeyFileError(ConfigError):
    """A key file that is missing, open to others, or not readable as one. The text says the fix."""


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster's keys of 32 bytes by their ids (1..255), oldest first, and the id of the one to seal with."""

    active: int
    keys: Mapping[int, bytes]

    @property
    def newest(self) -> int:
        """Id of the key that was added last: not the highest, for ids begin again at 1."""
        return tuple(self.keys)[-1]

    def __repr__(self) -> str:
        """Return the ids alone: keys must not reach a log by a traceback."""
        return f"Keys(active={self.active}, ids={sorted(self.keys)})"


def parse_key_file(text: str, file: str = "key file") -> Keys:
    """Return the keys of a key file's text; `file` is its name in messages.

    Raises:
        KeyFileError: with `file:line: what is wrong`; all mistakes, one a line.
    """
    if len(text) > TEXT_CHARACTERS_MAX:
        raise KeyFileError(f"{file}: longer than {TEXT_CHARACTERS_MAX} characters: this is no key file")
    keys: dict[int, bytes] = {}
    active: int | None = None
    mistakes: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.split()
        try:
            match words:
                case []:
                    continue
                case [first, *_] if first.startswith("#"):
                    continue
                case ["key", key_id, digits]:
                    _add_key(keys, _key_id(key_id), digits)
                case ["active", key_id] if active is None:
                    active = _key_id(key_id)
                case ["active", _]:
                    raise KeyFileError("second 'active': one key is active")
                case _:
                    raise KeyFileError("a line is a '# comment', 'key ID HEX' or 'active ID'")
        except KeyFileError as error:
            mistakes.append(f"{file}:{number}: {error}")
    if not mistakes:
        mistakes = [f"{file}: {mistake}" for mistake in _whole(keys, active)]
    if mistakes:
        raise KeyFileError("\n".join(mistakes))
    assert active is not None
    return Keys(active=active, keys=keys)


def render_key_file(keys: Keys) -> str:
    """Return the text of a key file; `parse_key_file` reads it back to equal keys in the same order."""
    lines = [
        "# Keys of a condor-gateway cluster: the same file on every node, mode 0600.",
        "# Whoever can read this file can lead the cluster.",
        "# Oldest key first. 'condor-gateway keygen --rotate' adds one and says how to go on.",
    ]
    lines += [f"key {key_id} {key.hex()}" for key_id, key in keys.keys.items()]
    lines.append(f"active {keys.active}")
    return "\n".join(lines) + "\n"


def add_key(keys: Keys, key: bytes) -> Keys:
    """Return `keys` with a new one, which opens and does not seal yet: the first step of a rotation.

    Its id is the next free one after the newest; after 255 comes 1.

    Raises:
        KeyFileError: a new key waits to be made active already, or there are KEYS_MAX.
    """
    if keys.newest != keys.active:
        raise KeyFileError(
            f"key {keys.newest} is newer than the active key {keys.active} already: when every node has it, make it "
            "active with --activate"
        )
    if len(keys.keys) == KEYS_MAX:
        raise KeyFileError(f"there are {KEYS_MAX} keys already: remove those older than the active one with --retire")
    key_id = keys.newest % KEY_ID_MAX + 1
    while key_id in keys.keys:
        key_id = key_id % KEY_ID_MAX + 1
    return Keys(active=keys.active, keys={**keys.keys, key_id: key})


def activate_newest(keys: Keys) -> Keys:
    """Return `keys` with the newest as the active one: the second step, when every node has it.

    Raises:
        KeyFileError: it is the active one already.
    """
    if keys.newest == keys.active:
        raise KeyFileError(f"key {keys.active} is the newest and active already: add another with --rotate alone")
    return Keys(active=keys.newest, keys=keys.keys)


def retire_old(keys: Keys) -> Keys:
    """Return `keys` without those that are older than the active one: the third step, when no node seals with them.

    Raises:
        KeyFileError: there are none.
    """
    ids = tuple(keys.keys)
    kept = ids[ids.index(keys.active) :]
    if kept == ids:
        newer = f": make key {keys.newest} active first, with --activate" if keys.newest != keys.active else ""
        raise KeyFileError(f"no key is older than the active key {keys.active}{newer}")
    return Keys(active=keys.active, keys={key_id: keys.keys[key_id] for key_id in kept})


def _key_id(text: str) -> int:
    if _ID.fullmatch(text) is None or not 1 <= int(text) <= KEY_ID_MAX:
        raise KeyFileError(f"the id of a key is a whole number from 1 to {KEY_ID_MAX}")
    return int(text)


def _add_key(keys: dict[int, bytes], key_id: int, digits: str) -> None:
    if _HEX.fullmatch(digits) is None:
        raise KeyFileError(f"key {key_id} has a character that is not a hexadecimal digit")
    if len(digits) != 2 * KEY_BYTES:
        raise KeyFileError(f"key {key_id} has {len(digits)} hexadecimal digits: {2 * KEY_BYTES} are needed")
    key = bytes.fromhex(digits)
    if len(set(key)) == 1:
        raise KeyFileError(f"key {key_id} is one byte repeated: make a real one with 'condor-gateway keygen'")
    if key_id in keys:
        raise KeyFileError(f"second key {key_id}: give it an id of its own")
    if key in keys.values():
        raise KeyFileError(f"key {key_id} is the same as another: make a new one with 'condor-gateway keygen'")
    if len(keys) == KEYS_MAX:
        raise KeyFileError(f"more than {KEYS_MAX} keys: remove those that no node seals with")
    keys[key_id] = key


def _whole(keys: dict[int, bytes], active: int | None) -> list[str]:
    if not keys:
        return ["no key: make a file with 'condor-gateway keygen'"]
    if active is None:
        return [f"no line 'active ID': add 'active {min(keys)}'"]
    if active not in keys:
        ids = ", ".join(str(key_id) for key_id in sorted(keys))
        return [f"'active {active}' names no key: there is {ids}"]
    return []
