"""Property tests draw the same inputs in every run, or, with `--hypothesis-profile random`, new ones."""
from hypothesis import settings

settings.register_profile("fixed", derandomize=True)
settings.register_profile("random", derandomize=False, print_blob=True)


def pytest_configure(config):
    if not config.getoption("--hypothesis-profile", None):
        settings.load_profile("fixed")
