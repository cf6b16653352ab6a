"""The page: HTML from status documents and the history. Pure apart from reading its own templates, once.

Rule: one renderer. What a browser puts in place while it watches is rendered here too, part by part.
"""

import functools
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Final, NamedTuple

import jinja2
from markupsafe import Markup

from gateway import __version__
from gateway.console.page.timeline import LEGEND
from gateway.console.page.view import View, make_view

FRAGMENTS: Final = ("verdict", "elections", "timeline", "nodes", "managers", "traffic")  # in the order of the page
REFRESH_S: Final = 5  # of a browser without JavaScript
ASSETS: Final = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}

Document = Mapping[str, Any]


class Operator(NamedTuple):
    """Whether somebody can act through the page, and may: `csrf` is the session's, "" where nobody has logged in."""

    possible: bool = False
    csrf: str = ""


READ_ONLY: Final = Operator()


class Message(NamedTuple):
    """What has become of the last order."""

    state: str
    text: str


def render_page(
    document: Document | None,
    history: Document,
    peers: Mapping[str, Document] | None = None,
    *,
    now_s: float,
    failure: str = "",
    operator: Operator = READ_ONLY,
    message: Message | None = None,
) -> str:
    """Return the whole page.

    Args:
        document: the status of this node; None while it does not answer.
        history: what `history` answers: {"changes": [...]}.
        peers: node -> its own status, or {"error": sentence}; the page says less of nodes that are missing.
        now_s: unix time.
        failure: why there is no document.
        operator: what may be done through the page.
        message: what is said above all.
    """
    view = make_view(document, _changes(history), peers or {}, now_s=now_s, failure=failure)
    fragments = {name: Markup(html) for name, html in _fragments(view).items()}
    return _template("page").render(
        view=view, fragments=fragments, operator=operator, message=message, refresh_s=REFRESH_S, version=__version__
    )


def render_fragments(
    document: Document | None,
    history: Document,
    peers: Mapping[str, Document] | None = None,
    *,
    now_s: float,
    failure: str = "",
) -> dict[str, str]:
    """Return the changing parts of the page by the names of `FRAGMENTS`, and its `title`. Arguments: `render_page`."""
    view = make_view(document, _changes(history), peers or {}, now_s=now_s, failure=failure)
    return {**_fragments(view), "title": title(view)}


def title(view: View) -> str:
    """Return what the browser's tab says: it is seen while the page is not."""
    return f"{view.verdict.word} · {view.cluster or 'condor-gateway'}"


@functools.cache
def asset(name: str) -> bytes:
    """Return a file of `ASSETS`."""
    assert name in ASSETS, f"no asset {name!r}"
    return resources.files(__name__).joinpath(name).read_bytes()


def load() -> None:
    """Read every file of the page now: later this process may have no right to."""
    for name in ASSETS:
        asset(name)
    render_page(None, {}, now_s=0.0, operator=Operator(possible=True))
    render_page(None, {}, now_s=0.0, operator=Operator(possible=True, csrf="x"))
    for name in FRAGMENTS:
        _template(name)


def _changes(history: Document) -> Sequence[Document]:
    changes: Sequence[Document] = history.get("changes") or ()
    return changes


def _fragments(view: View) -> dict[str, str]:
    return {name: _template(name).render(view=view, legend=LEGEND).strip() for name in FRAGMENTS}


@functools.cache
def _environment() -> jinja2.Environment:
    def load(name: str) -> str:
        return resources.files(__name__).joinpath("templates", name).read_text(encoding="utf-8")

    return jinja2.Environment(  # a name from the configuration is text, whatever is in it
        loader=jinja2.FunctionLoader(load), autoescape=True, undefined=jinja2.StrictUndefined, auto_reload=False
    )


def _template(name: str) -> jinja2.Template:
    return _environment().get_template(f"{name}.html")
