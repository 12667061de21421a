"""What holds for every test."""

import os

from hypothesis import HealthCheck, settings

os.environ.pop("COLUMNS", None)  # set in a worker of pytest-xdist: tables would be cut as on a narrow terminal

# How long an example takes, or the making of one, says how busy the machine is, not whether the code is right.
settings.register_profile("skyload", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("skyload")
