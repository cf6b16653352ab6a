"""50,000 generated configurations: never a traceback, and whatever is refused is refused at a line and a column.

Half are examples with a few words changed, half are lines of words from anywhere; all by a seed: each comes again.
"""

import random
import re
from pathlib import Path

import pytest
from config_files import BROKEN, EXAMPLES, SAMPLE

from gateway.config import Severity, load, render_all
from gateway.config.keywords import SECTIONS

BATCHES, BATCH = 10, 5_000
ENVIRONMENT = {"X": "\x1b\n y", "N": "7"}
HEAD = re.compile(r"[^\n]+?:[0-9]+:[0-9]+: (error|warning): [^\n]+")


def without_comments(text):
    return "\n".join(line for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#"))


VALID = [without_comments(path.read_text(encoding="utf-8")) for path in sorted(EXAMPLES.glob("*.cfg"))]
SEEDS = [SAMPLE] * 12 + VALID * 2 + [path.read_text(encoding="utf-8") for path in sorted(BROKEN.glob("*.cfg"))[::4]]
OTHER_FILES = {"x.cfg": "    option tcplog\n", "y.cfg": "include y.cfg\n", "z.cfg": SAMPLE}
KEYWORDS = sorted({word for kind in SECTIONS.values() for name in kind.keywords for word in name.split()})
OPTIONS = sorted(
    {option.word for kind in SECTIONS.values() for keyword in kind.keywords.values() for option in keyword.options}
)
LINES = (Path(__file__).parent / "testdata" / "words.txt").read_text(encoding="utf-8").splitlines()
VALUES = [word for line in LINES if line.startswith("values:") for word in line.split()[1:]]
STRANGE = [word for line in LINES if line.startswith("strange:") for word in line.split()[1:]]
STRANGE += ["\t", "\x00", "x" * 300, chr(0xD800), chr(0x202E)]


def read_other(path):
    if path == "*.cfg":
        return tuple(sorted(OTHER_FILES.items()))
    return ((path, OTHER_FILES.get(path, "")),)


def word(rng):
    return rng.choice(rng.choice((KEYWORDS, OPTIONS, VALUES, VALUES, STRANGE, list(SECTIONS))))


def mutated(rng):
    """Return an example with a few lines or words dropped, doubled, moved, cut or replaced."""
    lines = rng.choice(SEEDS).split("\n")
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        words = lines[at].split(" ")
        place = rng.randrange(len(words))
        match rng.randrange(7):
            case 0:
                lines[at] = ""
            case 1:
                lines.insert(other, lines[at])
            case 2:
                lines[at], lines[other] = lines[other], lines[at]
            case 3:
                lines[at] = " ".join((*words[:place], word(rng), *words[place + 1 :]))
            case 4:
                lines[at] = " ".join((*words[:place], word(rng), *words[place:]))
            case 5:
                lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
            case _:
                lines[at] = f"    {rng.choice(KEYWORDS)} {' '.join(word(rng) for _ in range(rng.randrange(4)))}"
    return "\n".join(lines)


def soup(rng):
    """Return lines of words from anywhere, some of them after a line that starts a section."""
    lines = []
    for _ in range(rng.randrange(12)):
        if rng.random() < 0.25:
            lines.append(f"{rng.choice(list(SECTIONS))} {rng.choice(VALUES)}")
        first = rng.choice(KEYWORDS) if rng.random() < 0.7 else word(rng)
        lines.append(f"    {first} {' '.join(word(rng) for _ in range(rng.randrange(5)))}"[rng.randrange(5) :])
    return "\n".join(lines)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_generated_configurations_are_answered(batch):
    rng = random.Random(f"configurations {batch}")
    refused = 0
    for number in range(BATCH):
        text = (mutated if number % 2 else soup)(rng)
        try:
            loaded = load(text, "g.cfg", ENVIRONMENT, read_other)
            said = render_all(loaded.diagnostics)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}, for\n{text!r}") from error
        errors = [found for found in loaded.diagnostics if found.severity is Severity.ERROR]
        assert (loaded.settings is None) == (errors != []), repr(text)
        assert all(found.line > 0 and found.column > 0 for found in errors[:1]), repr(text)
        if errors:
            refused += 1
            assert HEAD.match(said), repr(text)
            assert said.replace("\n", "").replace("\t", "").isprintable(), repr(text)
    assert refused > BATCH // 2  # of what was refused something is to be seen
