"""Property tests draw the same inputs in every run, or, with `--hypothesis-profile random`, new ones."""
from hypothesis import settings
from PIL import Image

OPEN = Image.open

settings.register_profile("fixed", derandomize=True)
settings.register_profile("random", derandomize=False, print_blob=True)


def pytest_configure(config):
    if not config.getoption("--hypothesis-profile", None):
        settings.load_profile("fixed")


def pytest_runtest_setup():
    """A test reads images with Pillow's own `open`, whichever test ran before it in this process.

    Once ultralytics is imported, `Image.open` is one of its own, which wants pi_heif for every file that is no image.
    """
    Image.open = OPEN
