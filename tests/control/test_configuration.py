"""What a node says of its configuration: the same words for the same meaning, and nothing lost on the way."""

import json
from pathlib import Path

import msgspec
import pytest

from gateway.config import load
from gateway.control.configuration import describe, digest, restore

EXAMPLES = sorted((Path(__file__).parents[2] / "haproxy-like-config").glob("*.cfg"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_settings_come_back_from_another_process_as_they_were(path: Path):
    settings = load(path.read_text(), path.name, {}).require()
    assert restore(json.loads(json.dumps(describe(settings, "gateway.cfg")))) == settings


def test_a_comment_and_the_spelling_of_a_time_change_no_digest():
    text = EXAMPLES[-1].parent.joinpath("minimal.cfg").read_text()
    assert "lease 300ms" in text
    other = "# moved to the new rack\n" + text.replace("lease 300ms", "lease 300")
    assert digest(load(text, "a", {}).require()) == digest(load(other, "b", {}).require())


def test_another_lease_is_another_digest():
    settings = load(EXAMPLES[-1].parent.joinpath("minimal.cfg").read_text(), "a", {}).require()
    assert digest(settings) != digest(msgspec.structs.replace(settings, lease_ms=301))
