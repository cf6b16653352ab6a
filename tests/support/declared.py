"""Whether a real node's status document is the one that is published (`gateway.console.status_schema`)."""

from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.console.status_schema import Status


def differences(said: Any, declared: Any, where: str = "") -> Iterator[str]:
    """Yield where a document has what the declaration has not, or the other way round."""
    if isinstance(said, dict) and isinstance(declared, dict):
        for name in said.keys() | declared.keys():
            if name in said and name in declared:
                yield from differences(said[name], declared[name], f"{where}.{name}")
            else:
                yield f"{where}.{name}"
    elif isinstance(said, list) and isinstance(declared, list):
        for number, (one, other) in enumerate(zip(said, declared, strict=True)):
            yield from differences(one, other, f"{where}[{number}]")
    elif said != declared:
        yield where


def undeclared(document: dict[str, Any]) -> list[str]:
    """Return the fields that the declaration lacks; raise `msgspec.ValidationError` where it is contradicted."""
    return sorted(differences(document, msgspec.to_builtins(msgspec.convert(document, Status))))
