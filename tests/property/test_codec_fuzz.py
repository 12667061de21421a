"""Thousands of spoiled streams in a process with little memory: pcodec is foreign code, and must not abort or grow.

A panic of Rust is an exception and would be seen by the other tests too; an allocation that fails, or a read outside
a buffer, ends the process: so here a process of its own decodes, under a limit of its address space, and must end well.
Run it for longer by hand: python -m tests.property.codec_fuzz SEED COUNT
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def fuzz(seed, count):
    return subprocess.run(
        [sys.executable, "-m", "tests.property.codec_fuzz", str(seed), str(count)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
@pytest.mark.timeout(660)
def test_spoiled_streams_end_no_process_and_take_no_memory():
    found = fuzz(seed=1, count=20_000)

    assert found.returncode == 0, found.stderr[-2000:]
    assert "20000 streams and segments" in found.stdout
