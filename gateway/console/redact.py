"""Redaction: no secret leaves this host in a support bundle, whichever part of it had it. Pure.

Rule: what is known to be secret is looked for in every form that a text may hold it in; what looks like one goes too.
"""

import base64
import json
import re
from collections.abc import Iterable
from typing import Final

MARK: Final = "[redacted]"
SECRET_BYTES_MIN: Final = 8  # of a whole file; shorter ones would take ordinary words out of every text
WORD_BYTES_MIN: Final = 16  # of one word of it: a file of keys has other words too

# A parameter whose name says that its value is secret. Paths, numbers and yes or no are not: they help.
_NAMED: Final = re.compile(
    r"(?im)^(?P<name>[ \t\"']*[\w.-]*"
    r"(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|API_?KEY|CREDENTIAL|PRIVATE_?KEY)[\w.-]*"
    r"[\"']?[ \t]*[=:][ \t]*)(?P<value>(?![\"']?/|true\b|false\b|yes\b|no\b|\d+,?\s*$|$)\S.*)$"
)
_LOOKING: Final = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*"),  # a JSON Web Token, as HTCondor's IDTOKENS are (RFC 7519)
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),  # user:password@host
    re.compile(r"(?i)(?<=\bBearer )[\w.~+/-]{8,}=*"),
)
_HEX: Final = re.compile(r"(?<![0-9A-Fa-f])(?:[0-9A-Fa-f]{2}){32,}(?![0-9A-Fa-f])")  # a cluster key has 32 bytes


class Redactor:
    """Takes secrets out of texts.

    Args:
        secrets: their bytes, as files hold them.
        open_values: texts of 64 hexadecimal digits or more that are no secrets: digests.
    """

    def __init__(self, secrets: Iterable[bytes], open_values: Iterable[str] = ()) -> None:
        forms: set[str] = set()
        for secret in secrets:
            # Without the line's end: the line after it must stay a line of its own.
            whole = {secret.strip()}
            words = {word for line in secret.splitlines() if not line.startswith(b"#") for word in line.split()}
            for data in {one for one in whole if len(one) >= SECRET_BYTES_MIN} | {
                one for one in words if len(one) >= WORD_BYTES_MIN
            }:
                forms |= _forms(data)
        # The longest first: one may be a part of another.
        self._known = re.compile("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True)) or r"(?!)")
        self._open = {value.lower() for value in open_values}

    def redact(self, text: str) -> str:
        """Return `text` without any secret that is known, or that looks like one."""
        text = self._known.sub(MARK, text)
        for pattern in _LOOKING:
            text = pattern.sub(MARK, text)
        text = _NAMED.sub(lambda found: f"{found['name']}{MARK}", text)
        return _HEX.sub(lambda found: found[0] if found[0].lower() in self._open else MARK, text)


def _forms(secret: bytes) -> set[str]:
    """Return how a secret may stand in a text: as it is, in hexadecimal, in base64."""
    encoded = {base64.b64encode(secret).decode().rstrip("="), base64.urlsafe_b64encode(secret).decode().rstrip("=")}
    forms = {secret.hex(), secret.hex().upper(), *encoded}
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        return forms
    forms |= {text, _escaped(text)}
    if re.fullmatch(r"(?:[0-9A-Fa-f]{2})+", text):  # written in hexadecimal: its bytes are as secret
        raw = bytes.fromhex(text)
        forms |= {text.lower(), text.upper(), base64.b64encode(raw).decode().rstrip("=")}
    return forms


def _escaped(text: str) -> str:
    """Return a text as JSON has it."""
    return json.dumps(text)[1:-1]
