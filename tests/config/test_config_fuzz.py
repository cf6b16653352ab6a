"""Whatever a file holds, `load` answers: settings, or diagnostics that can be printed. It never raises."""

from config_files import BROKEN, SAMPLE
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Severity, load, render_all
from gateway.config.keywords import SECTIONS

SEEDS = [SAMPLE, *(path.read_text(encoding="utf-8") for path in sorted(BROKEN.glob("*.cfg")))]
WORDS = sorted(
    {word for text in SEEDS for word in text.split()}
    | {word for kind in SECTIONS.values() for name in kind.keywords for word in name.split()}
    | {"'", '"', "\\", "#", '"${X}"', "$", "", "\t", "\x00", "-1", "9" * 30, "::", "[", "]:1", "/", ",", "é"}
)


def promise(text):
    loaded = load(text, "x.cfg", {"X": "\x1b\n y"})
    has_error = any(found.severity is Severity.ERROR for found in loaded.diagnostics)
    assert (loaded.settings is None) == has_error
    rendered = render_all(loaded.diagnostics)
    rendered.encode("utf-8")
    assert rendered.replace("\n", "").replace("\t", "").isprintable()
    for found in loaded.diagnostics:
        assert "\n" not in found.message
        assert found.line <= text.count("\n") + 1
    assert [found.line or 1_000_000 for found in loaded.diagnostics] == sorted(
        found.line or 1_000_000 for found in loaded.diagnostics
    )


@given(st.binary())
def test_random_bytes_are_answered(data):
    promise(data.decode("utf-8", "surrogateescape"))
    promise(data.decode("latin-1"))


@given(st.text())
def test_random_text_is_answered(text):
    promise(text)


@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=6), max_size=12), st.booleans())
def test_random_words_are_answered(lines, indented):
    promise("\n".join((" " if indented and index else "") + " ".join(line) for index, line in enumerate(lines)))
