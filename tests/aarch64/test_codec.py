"""The weight codec on aarch64, emulated: its own tests, golden segments among them, and the same bytes both ways.

Needs Debian's qemu-user and what `tests/aarch64/make-sysroot` makes (`make test-aarch64` does both checks and set-up);
skips itself where either is missing.
"""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bench.codec import ours, samples
from tests.aarch64 import decode

ROOT = Path(__file__).resolve().parent.parent.parent
SYSROOT = Path(os.environ.get("SKYLOAD_AARCH64", ROOT / ".cache" / "aarch64"))
QEMU = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(QEMU is None, reason="no qemu-aarch64: apt install qemu-user"),
    pytest.mark.skipif(not (SYSROOT / ".ready").exists(), reason="no sysroot: tests/aarch64/make-sysroot"),
]


def emulated(*arguments):
    """Run the project's code in an aarch64 Python; returns what it prints."""
    python = SYSROOT / "sysroot" / "usr" / "bin" / (SYSROOT / ".ready").read_text().strip()
    environment = {
        "HOME": os.environ.get("HOME", "/tmp"),
        "PATH": os.environ["PATH"],
        "PYTHONHOME": str(SYSROOT / "sysroot" / "usr"),
        "PYTHONPATH": f"{SYSROOT / 'packages'}:{ROOT}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [QEMU, "-L", str(SYSROOT / "sysroot"), str(python), *arguments]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    return result.stdout


def test_the_emulated_machine_is_what_it_says():
    assert emulated("-c", "import platform; print(platform.machine())").strip() == "aarch64"


@pytest.mark.parametrize(
    "module",
    [
        str(path.relative_to(ROOT))
        for pattern in ("test_codec*.py", "test_vectors*.py")
        for path in sorted((ROOT / "tests" / "unit" / "protocol").glob(pattern))
    ],
)
def test_the_codecs_own_tests_pass(module):
    printed = emulated("-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "900", module)
    assert " passed" in printed


def test_segments_packed_here_are_rebuilt_there_to_the_same_bytes(tmp_path):
    rng = np.random.default_rng(5)
    old = (rng.standard_normal((48, 768)) * np.exp(rng.standard_normal((48, 1)) / 2) * 0.03).astype(np.float32)
    new = old + rng.standard_normal(old.shape).astype(np.float32) * np.float32(5e-5)
    expected = []
    for form in samples.FORMATS.values():
        name = "model.gguf" if form.is_gguf else "model.safetensors"
        for model, values in (("old", old), ("new", new)):
            matrix = samples.quantize("model.layers.0.mlp.up_proj.weight", values, form)
            samples.write(tmp_path / form.name / model / name, [matrix])
        for base in (None, tmp_path / form.name / "old"):
            packed = ours.pack(tmp_path / form.name / "new", base)
            case = tmp_path / f"{form.name}-{'delta' if base else 'full'}"
            decode.save(case, packed.segments, packed.base_paths)
            expected.append(f"{case.name} {decode.digest(case)}")
    assert emulated("-m", "tests.aarch64.decode", str(tmp_path)).splitlines() == sorted(expected)
