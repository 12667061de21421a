"""What holds for every test."""

import os

from hypothesis import HealthCheck, settings

os.environ.pop("COLUMNS", None)  # set in a worker of pytest-xdist: tables would be cut as on a narrow terminal

# How long an example takes, or the making of one, says how busy the machine is, not whether the code is right.
settings.register_profile("skyload", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("skyload")

ORDINARY_TIMEOUT_S = 240  # as in pyproject.toml


def pytest_collection_modifyitems(items):
    """Begin with the tests that were given more time than others: begun last, one keeps a single process busy."""
    items.sort(key=_is_ordinary)


def _is_ordinary(item):
    marker = item.get_closest_marker("timeout")
    return marker is None or marker.args[0] <= ORDINARY_TIMEOUT_S
