"""Health as load balancers and supervisors ask for it: a status code and a sentence, from the status document alone.

| path              | 200 where                                                                  |
|-------------------|----------------------------------------------------------------------------|
| /live             | the node's control process answers                                         |
| /health           | it hears a majority of the voters, and every election has a leader         |
| /ready            | it could serve: it is fit and not drained, and not alone without a leader  |
| /leader           | it leads something                                                         |
| /leader/ELECTION  | it leads that                                                              |

Rule: 503 says why in its text; an election that does not exist is 404.
"""

from collections.abc import Mapping
from typing import Any, Final

HEARD_MS: Final = 1_000
OK, NOT_FOUND, UNAVAILABLE = 200, 404, 503

Answer = tuple[int, str]
Document = Mapping[str, Any]


def answer(path: str, document: Document | None) -> Answer | None:
    """Return what is answered at `path`; None where it is no path of health. Without a document control is silent."""
    words = path.strip("/").split("/")
    if words[0] not in ("live", "health", "ready", "leader") or len(words) > (2 if words[0] == "leader" else 1):
        return None
    if document is None:
        return UNAVAILABLE, "the control process does not answer"
    match words:
        case ["live"]:
            return live(document)
        case ["health"]:
            return health(document)
        case ["ready"]:
            return ready(document)
        case ["leader"]:
            return leader(document)
    return leader(document, words[1])


def live(document: Document) -> Answer:
    """Tell whether the node runs: it has given a document, so it does."""
    return OK, f"{document['node']} runs"


def health(document: Document) -> Answer:
    """Tell whether the cluster is whole as far as this node sees."""
    wrong = [*_alone(document), *_leaderless(document)]
    return (UNAVAILABLE, "; ".join(wrong)) if wrong else (OK, "a majority is heard, and everything has a leader")


def ready(document: Document) -> Answer:
    """Tell whether this node could serve what it is a candidate for; a witness, whether it could vote."""
    # Alone and with a leader: `on-partition serve`, where each side goes on.
    wrong = _alone(document) if _leaderless(document) else []
    me = document["node"]
    if me in ((document.get("orders") or {}).get("drained") or ()):
        wrong.append(f"{me} is drained")
    for name, election in document["elections"].items():
        standing = election["candidates"].get(me)
        if me in election["candidates"] and (standing is None or not standing["fit"]):
            wrong.append(f"{me} can not serve {name} now")
    return (UNAVAILABLE, "; ".join(wrong)) if wrong else (OK, f"{me} is ready")


def leader(document: Document, election: str | None = None) -> Answer:
    """Tell whether this node leads, `election` or anything at all."""
    me, elections = document["node"], document["elections"]
    if election is not None and election not in elections:
        return NOT_FOUND, f"no election '{election}' here; there are: {', '.join(elections)}"
    asked = elections if election is None else {election: elections[election]}
    led = [name for name, one in asked.items() if one["lease_left_ms"] is not None]
    if led:
        return OK, f"{me} leads {', '.join(led)}"
    others = "; ".join(f"{name}: {one['leader'] or 'nobody'}" for name, one in asked.items())
    return UNAVAILABLE, f"{me} does not lead ({others})"


def _alone(document: Document) -> list[str]:
    peers = document["peers"]
    heard = [name for name, one in peers.items() if one["heard_ms_ago"] is not None and one["heard_ms_ago"] < HEARD_MS]
    voters = len(peers) + 1
    if 2 * (len(heard) + 1) > voters:
        return []
    return [f"{len(heard) + 1} of {voters} nodes are heard, itself included: no majority"]


def _leaderless(document: Document) -> list[str]:
    return [f"nobody leads {name}" for name, one in document["elections"].items() if one["leader"] is None]
