"""For all tests: a busy machine is no reason to fail, so examples of Hypothesis have no deadline."""

from hypothesis import settings

settings.register_profile("without_deadline", deadline=None)
settings.load_profile("without_deadline")
