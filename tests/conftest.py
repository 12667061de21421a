"""What holds for every test."""

import os

os.environ.pop("COLUMNS", None)  # set in a worker of pytest-xdist: tables would be cut as on a narrow terminal
