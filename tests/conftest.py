"""What holds for every test: an example of Hypothesis may take its time, for a busy machine breaks no promise."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
