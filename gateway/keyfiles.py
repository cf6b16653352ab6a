"""Key files on disk: read one that only its owner can read, make one, rewrite one. The pure layers never import this.

A file that is open to others is refused rather than repaired: whoever has read the key keeps it.
"""

import contextlib
import fcntl
import os
import secrets
import shlex
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from gateway.config.diagnostics import printable
from gateway.config.keyfile import (
    KEY_BYTES,
    TEXT_CHARACTERS_MAX,
    KeyFileError,
    Keys,
    parse_key_file,
    render_key_file,
)

_OTHERS = 0o077


def read_key_file(path: str | Path) -> Keys:
    """Return the keys of the file at `path`. Blocks on the disk: call it before the control process starts to beat.

    Raises:
        KeyFileError: it is missing, not a file, open to group or others, owned by a stranger, or not a key file.
    """
    name = _quote(str(path))
    try:
        # O_NONBLOCK: a FIFO in its place must not hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        make = f"condor-gateway keygen {shlex.quote(str(path))}"
        raise KeyFileError(f"key file {name} does not exist: make one with {_quote(make)}") from None
    except PermissionError:
        raise KeyFileError(f"key file {name} cannot be read by this user: run as root") from None
    except OSError as error:
        raise KeyFileError(f"key file {name} cannot be read: {error.strerror}") from error
    try:
        # Of the open file, not of the path: the path may name another file by now.
        _refuse_strange_owner_or_mode(path, os.fstat(descriptor))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(TEXT_CHARACTERS_MAX + 1)
    except OSError as error:
        raise KeyFileError(f"key file {name} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        raise KeyFileError(f"key file {name} is not text: make one with 'condor-gateway keygen'") from None
    return parse_key_file(text, file=str(path))


def create_key_file(path: str | Path) -> Keys:
    """Make a file with one new random key at `path`, mode 0600 and on the disk; return its keys.

    Raises:
        KeyFileError: something is there already, or it cannot be written; nothing is left behind then.
    """
    name = _quote(str(path))
    keys = Keys(active=1, keys={1: new_key()})
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise KeyFileError(f"key file {name} exists already and is not overwritten: name another") from None
    except FileNotFoundError:
        folder = Path(path).parent
        make = f"mkdir -p {shlex.quote(str(folder))}"
        raise KeyFileError(f"folder {_quote(str(folder))} does not exist: make it with {_quote(make)}") from None
    except OSError as error:
        raise KeyFileError(f"key file {name} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(render_key_file(keys))
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(Path(path).parent)
    except OSError as error:
        # Half a key file would only be refused later; it is ours, O_EXCL has made it.
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise KeyFileError(f"key file {name} cannot be written: {error.strerror}") from error
    return keys


def new_key() -> bytes:
    """Return a random key."""
    return secrets.token_bytes(KEY_BYTES)


def rewrite_key_file(path: str | Path, change: Callable[[Keys], Keys]) -> Keys:
    """Replace the keys of the file at `path` by what `change` makes of them, all at once; return them.

    Mode 0600 and the owner stay. A reader, and a host that loses its power, has the old file or the new one.

    Raises:
        KeyFileError: `read_key_file` or `change` refuses, another process is rewriting it, or it cannot be written;
            the file is as it was then.
    """
    # Of a symbolic link the target is replaced, not the link: packages put such files where links lead.
    target = Path(os.path.realpath(path))
    try:
        with _only_writer(target.parent, path):
            before = read_key_file(target)
            try:
                keys = change(before)
            except KeyFileError as error:
                raise KeyFileError(f"key file {_quote(str(path))}: {error}") from None
            _replace(target, render_key_file(keys))
            return keys
    except OSError as error:
        raise KeyFileError(f"key file {_quote(str(path))} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def _only_writer(folder: Path, path: str | Path) -> Iterator[None]:
    """Keep others from rewriting files of `folder` meanwhile: of two new keys one would be lost."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        make = f"condor-gateway keygen {shlex.quote(str(path))}"
        raise KeyFileError(f"key file {_quote(str(path))} does not exist: make one with {_quote(make)}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy = "is being rewritten by another process: wait for it"
            raise KeyFileError(f"key file {_quote(str(path))} {busy}") from None
        yield
    finally:
        os.close(descriptor)


def _replace(target: Path, text: str) -> None:
    fresh = target.with_name(f".{target.name}.new")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()  # of a run that was killed: nobody else writes here now
    owner = target.stat()
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(target)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _refuse_strange_owner_or_mode(path: str | Path, status: os.stat_result) -> None:
    name, shell_path = _quote(str(path)), shlex.quote(str(path))
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"key file {name} is not a file")
    if status.st_uid not in {0, os.geteuid()}:
        fix = f"chown root {shell_path}"
        raise KeyFileError(f"key file {name} belongs to user {status.st_uid}: run {_quote(fix)}")
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS:
        fix = f"chmod 600 {shell_path}"
        raise KeyFileError(f"key file {name} is open to other users (mode {mode:04o}): run {_quote(fix)}")


def _sync_folder(folder: Path) -> None:
    """Put a new name on the disk: the folder is what holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _quote(text: str) -> str:
    """Return `text` in quotes and whole: a path or a command that is cut short helps nobody."""
    return f"'{printable(text)}'"
