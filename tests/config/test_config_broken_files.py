import pytest
from config_files import BROKEN, ENVIRONMENT

from gateway.config import load, render_all

FILES = sorted(path.stem for path in BROKEN.glob("*.cfg"))


@pytest.mark.parametrize("name", FILES)
def test_broken_file_gets_its_answer_to_the_letter(name):
    text = (BROKEN / f"{name}.cfg").read_text(encoding="utf-8")
    loaded = load(text, f"{name}.cfg", ENVIRONMENT)
    assert render_all(loaded.diagnostics) == (BROKEN / f"{name}.expected").read_text(encoding="utf-8")
    assert loaded.diagnostics
    assert (loaded.settings is not None) == text.startswith("# No error:")


def test_every_answer_has_its_file_and_there_are_many():
    assert sorted(path.stem for path in BROKEN.glob("*.expected")) == FILES
    assert len(FILES) >= 25
