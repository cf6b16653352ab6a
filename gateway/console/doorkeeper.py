"""The doorkeeper: who may act through the status page. It knows one token, and gives sessions to those who know it.

Rule: nothing here waits. Whoever has guessed wrong is told how long not to ask again, and is not listened to before,
right or wrong: a wait that the right token ended would bound nobody's guessing. But what strangers guess keeps nobody
out whose address has known the token before, and one that shares it (a proxy's) keeps them out for seconds.
"""

import hashlib
import hmac
import os
import secrets
import stat
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

TOKEN_LENGTH_MIN: Final = 16
TOKEN_BYTES_MAX: Final = 4_096
DELAY_S_FIRST, DELAY_S_MAX = 1.0, 60.0  # doubled with each wrong guess of one source
SOURCES_MAX: Final = 1_024
GUESSES_MAX: Final = 20  # wrong ones, of all sources together, in a minute: an attacker may have many addresses
MINUTE_S: Final = 60.0
KNOWN_DELAY_S_MAX: Final = (
    MINUTE_S / GUESSES_MAX
)  # of a source that has known the token: no more guesses than all others
SESSIONS_MAX: Final = 64
SESSION_S: Final = 8 * 3_600.0  # a shift
IDLE_S: Final = 3_600.0


class TokenUnusable(Exception):  # noqa: N818 (an answer to the operator)
    """The token file can't be used; the page stays read-only."""


class TooSoon(Exception):  # noqa: N818 (an answer to the client)
    """Too many wrong guesses: not before `wait_s` from now."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"too many wrong tokens: try again in {wait_s:.0f} s")
        self.wait_s = wait_s


class Session:
    """One browser that has logged in. `message` is said on the next page, once: state, sentence."""

    def __init__(self, now_s: float) -> None:
        self.csrf = secrets.token_urlsafe(24)
        self.began_s = self.used_s = now_s
        self.message: tuple[str, str] | None = None


class Doorkeeper:
    """Tokens and sessions of one console. `token` "" lets nobody in.

    Times are of any clock that only goes forward, in seconds.
    """

    def __init__(self, token: str) -> None:
        self.possible = bool(token)
        self._token = _digest(token)
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()  # source -> guesses, not listened to before
        self._known: OrderedDict[str, None] = OrderedDict()  # sources that have known the token, the latest last
        self._guesses_s: list[float] = []
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def admits(self, source: str, token: str, now_s: float) -> bool:
        """Return whether this is the token.

        Raises:
            TooSoon: its source is not listened to now, right or wrong.
        """
        guesses, not_before_s = self._wrong.get(source, (0, 0.0))
        known = source in self._known
        self._guesses_s = [one for one in self._guesses_s if one > now_s - MINUTE_S]
        if len(self._guesses_s) >= GUESSES_MAX and not known:
            not_before_s = max(not_before_s, self._guesses_s[0] + MINUTE_S)
        if now_s < not_before_s:
            raise TooSoon(not_before_s - now_s)
        # Of digests, so that neither length nor beginning of the token shows in the time that this takes.
        if self.possible and hmac.compare_digest(_digest(token), self._token):
            self._wrong.pop(source, None)
            self._known[source] = None
            _forget_the_oldest(self._known, source)
            return True
        if not known:
            self._guesses_s.append(now_s)
        delay_s = min(DELAY_S_FIRST * 2 ** min(guesses, 10), KNOWN_DELAY_S_MAX if known else DELAY_S_MAX)
        self._wrong[source] = guesses + 1, now_s + delay_s
        _forget_the_oldest(self._wrong, source)
        return False

    def begin(self, now_s: float) -> str:
        """Begin a session; return its key, which is the browser's alone."""
        key = secrets.token_urlsafe(32)
        self._sessions[_digest(key)] = Session(now_s)
        if len(self._sessions) > SESSIONS_MAX:
            self._sessions.popitem(last=False)
        return key

    def session(self, key: str, now_s: float) -> Session | None:
        """Return the session of a key, if it has one that is not over."""
        found = self._sessions.get(_digest(key))
        if found is None or now_s >= found.began_s + SESSION_S or now_s >= found.used_s + IDLE_S:
            self.end(key)
            return None
        found.used_s = now_s
        return found

    def end(self, key: str) -> None:
        """End a session."""
        self._sessions.pop(_digest(key), None)


def _forget_the_oldest(sources: OrderedDict[str, Any], newest: str) -> None:
    sources.move_to_end(newest)
    if len(sources) > SOURCES_MAX:
        sources.popitem(last=False)


def same_secret(one: str, other: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(_digest(one), _digest(other))


def read_token(path: str) -> str:
    """Read the operator's token, the first line of its file.

    Raises:
        TokenUnusable: it can't be read, others can read it as well, or it is too short.
    """
    try:
        with Path(path).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(TOKEN_BYTES_MAX).decode()
    except OSError as error:
        raise TokenUnusable(f"admin token-file '{path}' cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise TokenUnusable(f"admin token-file '{path}' is not text") from None
    if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        raise TokenUnusable(f"admin token-file '{path}' is open to others (mode {mode & 0o777:o}): chmod 600 it")
    token = (text.splitlines() or [""])[0].strip()
    if len(token) < TOKEN_LENGTH_MIN:
        raise TokenUnusable(f"admin token-file '{path}' has a token of {len(token)} characters: at least "
                            f"{TOKEN_LENGTH_MIN}, as 'openssl rand -hex 32' makes them")  # fmt: skip
    return token


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
