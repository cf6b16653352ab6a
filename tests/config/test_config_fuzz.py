"""Whatever a file holds, `load` answers: settings, or diagnostics that can be printed. It never raises."""

from config_files import BROKEN, SAMPLE
from hypothesis import given, settings
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


@st.composite
def mutated_files(draw):
    """Return a sample file with a few lines or words dropped, doubled, moved or replaced."""
    lines = draw(st.sampled_from(SEEDS)).split("\n")
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(lines) - 1))
        other = draw(st.integers(0, len(lines) - 1))
        words = lines[at].split(" ")
        word = draw(st.integers(0, len(words) - 1))
        match draw(st.sampled_from(["drop", "double", "swap", "replace", "insert", "cut", "remove"])):
            case "drop":
                lines[at] = ""
            case "double":
                lines.insert(other, lines[at])
            case "swap":
                lines[at], lines[other] = lines[other], lines[at]
            case "replace":
                words[word] = draw(st.sampled_from(WORDS))
                lines[at] = " ".join(words)
            case "insert":
                words.insert(word, draw(st.sampled_from(WORDS) | st.text(max_size=4)))
                lines[at] = " ".join(words)
            case "cut":
                lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
            case "remove":
                del words[word]
                lines[at] = " ".join(words)
    return "\n".join(lines)


@settings(max_examples=300, deadline=None)
@given(mutated_files())
def test_mutated_files_are_answered(text):
    promise(text)


@settings(max_examples=50, deadline=None)
@given(mutated_files(), mutated_files())
def test_two_files_in_one_are_answered(first, second):
    promise(first + "\n" + second)
