"""The twin: rebuild a release from its bundles exactly as on board; let the flight engine answer with it and judge it.

Runs on the ground, before anything is signed: it takes a bare manifest, and the release key itself. The same code
that installs in orbit assembles and verifies here, and the same worker process answers, so what comes out is what the
canary must see there; how good the release is on a held-out text is measured on the same files, by the same engine.
Nothing of a state directory is read or written.
"""

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onboard.config import read_key
from onboard.errors import ConfigError, InstallError, StoreCorruptError
from onboard.installer.assemble import Assembly, Plan
from onboard.installer.release import SUMS_NAME, ReleaseDirectory, hash_file, list_model_files
from onboard.store.bases import base_directory_of
from protocol.errors import ProtocolError
from protocol.limits import MANIFEST_SIZE_MAX
from protocol.manifest import FileEntry, Manifest, bundle_digest, release_digest
from protocol.report import Reason

_RELEASE_NAME = "release"


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalTask:
    """What is to be rehearsed.

    Attributes:
        manifest: the manifest, not wrapped in metadata.
        bundles: directory of the bundles, any names.
        release_key_file: the release key, hexadecimal.
        base: directory of the base release, where the manifest names one.
        prompts: JSON file: an array of texts, or of conversations; None rebuilds and verifies only.
        max_tokens: longest answer.
        engine_command: of the engine worker; empty for the built-in one.
        num_threads: CPU threads of the engine.
        work_dir: where the release is rebuilt; it stays there as `release`.
        held_out: text that it is judged on; None judges nothing.
        held_out_tokens: at most so many of its tokens.
        reference: directory of a model that it is compared with.
        judge_command: of the judge; empty for the built-in one, which is the built-in engine.
    """

    manifest: Path
    bundles: Path
    release_key_file: Path
    base: Path | None
    prompts: Path | None
    max_tokens: int
    engine_command: Sequence[str]
    num_threads: int
    work_dir: Path
    held_out: Path | None = None
    held_out_tokens: int = 4096
    reference: Path | None = None
    judge_command: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalResult:
    """What came of it: the release's digest, answers in the order of the prompts, seconds to load and answer.

    `quality` is what `onboard.inference.judge` said of what was rebuilt; None if there was no text.
    """

    digest: bytes
    answers: tuple[dict[str, Any], ...]
    load_s: float
    rebuild_s: float
    quality: dict[str, Any] | None = None


def rehearse(task: RehearsalTask, tell: Callable[[str], None]) -> RehearsalResult:
    """Rebuild, verify, ask, judge.

    Raises:
        ConfigError: an input is not usable.
        InstallError: the bundles do not give the release, or the engine does not run it.
    """
    manifest = _read_manifest(task.manifest)
    prompts = _read_prompts(task.prompts) if task.prompts is not None else []
    started = time.perf_counter()
    directory = _rebuild(task, manifest, tell)
    rebuild_s = time.perf_counter() - started
    answers, load_s = _ask(task, directory, prompts, tell) if task.prompts is not None else ([], 0.0)
    return RehearsalResult(
        digest=manifest.release_digest,
        answers=tuple(answers),
        load_s=load_s,
        rebuild_s=rebuild_s,
        quality=_judge(task, directory, task.held_out, tell) if task.held_out is not None else None,
    )


def _rebuild(task: RehearsalTask, manifest: Manifest, tell: Callable[[str], None]) -> Path:
    base = _open_base(task.base, manifest, tell)
    task.work_dir.mkdir(parents=True, exist_ok=True)
    target = task.work_dir / _RELEASE_NAME
    part = task.work_dir / f"{_RELEASE_NAME}.part"
    plan = Plan(
        manifest=manifest,
        release_key=read_key(task.release_key_file, what="release key"),
        base=base,
    )
    shutil.rmtree(part, ignore_errors=True)  # a rehearsal always begins at the beginning
    assembly = Assembly.open(part, plan)
    paths = _find_bundles(task.bundles, manifest)
    for number, path in enumerate(paths):
        tell(f"bundle {number + 1} of {len(paths)}")
        assembly.install(path, number)
    tell("comparing digests")
    assembly.verify()
    assembly.seal(target, b"")
    if base is not None and (beside := base_directory_of(target)) is not None:
        beside.unlink(missing_ok=True)
        beside.symlink_to(base.directory.resolve())  # as on board, where one release lies beside the other
    return target


def _ask(
    task: RehearsalTask, directory: Path, prompts: list[dict[str, Any]], tell: Callable[[str], None]
) -> tuple[list[dict[str, Any]], float]:
    from onboard.inference.errors import ServingError
    from onboard.inference.rehearsal import answer_prompts

    tell(f"asking {len(prompts)} prompts")
    started = time.perf_counter()
    try:
        answers = asyncio.run(
            answer_prompts(directory, prompts, task.max_tokens, task.engine_command, num_threads=task.num_threads)
        )
    except ServingError as error:
        raise InstallError(
            str(error), reason=Reason.LOAD_FAILED, hint="the engine must be able to run this model: see above"
        ) from error
    seconds = time.perf_counter() - started - sum(answer.seconds for answer in answers)
    return [{"tokens": list(answer.tokens), "text": answer.text} for answer in answers], max(seconds, 0.0)


def _judge(task: RehearsalTask, directory: Path, text: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    from onboard.inference.errors import ServingError
    from onboard.inference.rehearsal import JUDGE_COMMAND, judge_release

    tell(f"judging it on {task.held_out_tokens} tokens of {text.name}")
    for path in filter(None, (text, task.reference)):
        if not path.exists():
            raise ConfigError(f"{path}: not found", hint="--held-out takes a text, --reference a model's directory")
    try:
        return asyncio.run(
            judge_release(
                directory,
                text,
                max_tokens=task.held_out_tokens,
                reference=task.reference,
                num_threads=task.num_threads,
                command=task.judge_command or JUDGE_COMMAND,
            )
        )
    except ServingError as error:
        raise InstallError(
            str(error),
            reason=Reason.LOAD_FAILED,
            hint="the text must be UTF-8, the reference a model of the same tokens",
        ) from error


def _read_manifest(path: Path) -> Manifest:
    try:
        with path.open("rb") as file:
            data = file.read(MANIFEST_SIZE_MAX + 1)
        return Manifest.decode(data)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="--manifest takes the file that stage wrote") from error
    except ProtocolError as error:
        raise ConfigError(f"{path}: {error}", hint="--manifest takes the file that stage wrote") from error


def _read_prompts(path: Path) -> list[dict[str, Any]]:
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="--prompts takes a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}", hint='for example ["What is a satellite?"]') from error
    if not isinstance(items, list):
        raise ConfigError(f"{path}: expected an array", hint='for example ["What is a satellite?"]')
    prompts = []
    for item in items:
        if isinstance(item, str):
            prompts.append({"messages": [{"role": "user", "content": item}]})
        elif isinstance(item, dict):
            prompts.append(item)
        else:
            raise ConfigError(f"{path}: a prompt is a text or an object, not {item!r}")
    return prompts


def _open_base(directory: Path | None, manifest: Manifest, tell: Callable[[str], None]) -> ReleaseDirectory | None:
    """Open the base: a sealed release, or any model directory, which is then hashed."""
    if manifest.base is None:
        return None
    if directory is None:
        raise ConfigError(
            f"the manifest builds on release {manifest.base.hex()[:16]}", hint="give its directory with --base"
        )
    if (directory / SUMS_NAME).exists():
        try:
            return ReleaseDirectory.open(directory, manifest.base)
        except StoreCorruptError as error:
            raise ConfigError(str(error), hint="--base must be the release that the manifest names") from error
    entries = []
    for path in list_model_files(directory):
        tell(f"hashing {path.name} of the base")
        size, sha256 = hash_file(path)
        entries.append(FileEntry(name=path.name, size_bytes=size, sha256=sha256))
    digest = release_digest(entries)
    if digest != manifest.base:
        raise ConfigError(
            f"{directory}: is release {digest.hex()[:16]}, the manifest builds on {manifest.base.hex()[:16]}",
            hint="--base must be the release that the manifest names",
        )
    return ReleaseDirectory(directory=directory, digest=digest, files=tuple(entries))


def _find_bundles(directory: Path, manifest: Manifest) -> list[Path]:
    """Find each bundle by its digest, whatever the files are called."""
    wanted = {(entry.size_bytes, entry.digest) for entry in manifest.bundles}
    sizes = {size for size, _ in wanted}
    found: dict[bytes, Path] = {}
    try:
        paths = sorted(path for path in directory.iterdir() if path.is_file())
    except OSError as error:
        raise ConfigError(f"{directory}: {error.strerror}", hint="--bundles takes a directory") from error
    for path in paths:
        if path.stat().st_size in sizes:
            size, sha256 = hash_file(path)
            if (size, bundle_digest(sha256)) in wanted:
                found[bundle_digest(sha256)] = path
    missing = [number for number, entry in enumerate(manifest.bundles) if entry.digest not in found]
    if missing:
        raise ConfigError(
            f"{directory}: {len(missing)} of {len(manifest.bundles)} bundles are not there, bundle {missing[0]} first",
            hint="they must be the very files that stage wrote",
        )
    return [found[entry.digest] for entry in manifest.bundles]
