"""The twin: `skyloadd` itself, run on the ground, rebuilds a release from its bundles, answers prompts and judges it.

A subprocess: the ground imports no onboard code and has no second implementation of it. What the twin is given is what
will fly: the manifest and the bundles; and the release key, in a file of mode 0600 that is removed afterwards.

    skyloadd rehearse --manifest FILE --bundles DIR --release-key-file FILE --work-dir DIR --json
                      [--base DIR] [--prompts FILE] --max-tokens N
                      [--held-out FILE --held-out-tokens N [--reference DIR]]

prints one JSON object: {"digest": hex, "answers": [{"tokens": [int], "text": str}], "load_s": float}, and with
--held-out "quality": {"text": SHA-256 of it, "num_tokens": int, "perplexity": float, "reference": null |
{"perplexity": float, "divergence": float}}.
"""

import ctypes
import json
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundsegment.errors import InputError, TwinError
from protocol.errors import DecodeError
from protocol.limits import CANARY_TOKENS_MAX
from protocol.quality import Quality, QualityReference

PROGRAM = "skyloadd"
VERB = "rehearse"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_LOG_NAME = "twin.log"
_LOG_TAIL_LINES = 4
_INSTALL_HINT = (
    "install it beside skyload: pip install 'skyload[onboard]'; or --twin COMMAND; "
    "or --no-canary: then an update that loads is taken for good, whatever it answers"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinAnswer:
    """What the twin answered to one prompt."""

    tokens: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """What a release is judged by.

    Attributes:
        held_out: text that nothing was made on.
        max_tokens: of it.
        reference: directory of a model that it is compared with; None for none.
        max_loss: by how much the perplexity may be above the reference's: 0.01 is 1 %; None for no limit.
    """

    held_out: Path
    max_tokens: int = 4096
    reference: Path | None = None
    max_loss: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What the twin is given.

    Attributes:
        manifest: bytes of the draft manifest.
        release_digest: of the release it must rebuild.
        bundles: directory of the bundles.
        release_key: what they are encrypted with.
        base_files: files of the base release by name; empty if there is no base.
        prompts: to answer, greedily.
        max_tokens: of one answer.
        judging: what the release is judged by; None for nothing.
    """

    manifest: bytes
    release_digest: bytes
    bundles: Path
    release_key: bytes
    base_files: Mapping[str, Path]
    prompts: tuple[str, ...]
    max_tokens: int
    judging: Judging | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """What the twin found: an answer to every prompt, and how good the release is if that was asked."""

    answers: tuple[TwinAnswer, ...]
    quality: Quality | None = None


def find_twin(command: str | None) -> list[str]:
    """Return the command line of the twin.

    Args:
        command: what to run instead of `skyloadd`; it may go on with `rehearse` and options of its own. None looks
            beside this Python, then in PATH.

    Raises:
        InputError: the command has no words.
        TwinError: there is none.
    """
    try:
        words = shlex.split(command) if command else [_installed() or ""]
    except ValueError as error:
        raise InputError(f"--twin: {command!r} is not a command line: {error}", hint="close its quotes") from None
    program = shutil.which(words[0]) if words and words[0] else None
    if program is None:
        raise TwinError(f"no twin: {words[0] if command and words else PROGRAM} is not found", hint=_INSTALL_HINT)
    return [program, *words[1:], *([] if VERB in words else [VERB])]


def rehearse(rehearsal: Rehearsal, twin: Sequence[str], directory: Path) -> Rehearsed:
    """Let the twin rebuild the release, answer and judge.

    Args:
        rehearsal: what it is given.
        twin: its command line, from `find_twin`.
        directory: made for it and removed again; kept, with its log, if it fails. Needs room for the release.

    Raises:
        TwinError: it failed, rebuilt something else, or answered nonsense.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)
    key_file = directory / "release.key"
    try:
        _write_inputs(rehearsal, directory, key_file)
        printed = _run([*twin, *_arguments(rehearsal, directory, key_file)], directory / _LOG_NAME)
    finally:
        key_file.unlink(missing_ok=True)
        shutil.rmtree(directory / "work", ignore_errors=True)
    found = _parse(printed, rehearsal)
    shutil.rmtree(directory)
    return found


def _installed() -> str | None:
    beside = Path(sys.executable).with_name(PROGRAM)
    return str(beside) if beside.exists() else shutil.which(PROGRAM)


def _write_inputs(rehearsal: Rehearsal, directory: Path, key_file: Path) -> None:
    (directory / "manifest.msgpack").write_bytes(rehearsal.manifest)
    if rehearsal.prompts:
        (directory / "prompts.json").write_text(json.dumps(list(rehearsal.prompts)), encoding="utf-8")
    (directory / "work").mkdir()
    if rehearsal.base_files:
        # A directory of nothing but the base's files: the operator's may hold others, and a GGUF file has neighbours.
        (directory / "base").mkdir()
        for name, path in rehearsal.base_files.items():
            (directory / "base" / name).symlink_to(path.resolve())
    key_file.touch(mode=0o600)
    key_file.write_text(rehearsal.release_key.hex() + "\n", encoding="ascii")


def _arguments(rehearsal: Rehearsal, directory: Path, key_file: Path) -> list[str]:
    arguments = ["--manifest", str(directory / "manifest.msgpack"), "--bundles", str(rehearsal.bundles)]
    arguments += ["--release-key-file", str(key_file), "--work-dir", str(directory / "work"), "--json"]
    arguments += ["--max-tokens", str(rehearsal.max_tokens)]
    if rehearsal.prompts:
        arguments += ["--prompts", str(directory / "prompts.json")]
    if rehearsal.base_files:
        arguments += ["--base", str(directory / "base")]
    if (judging := rehearsal.judging) is not None:
        arguments += ["--held-out", str(judging.held_out.resolve()), "--held-out-tokens", str(judging.max_tokens)]
        if judging.reference is not None:
            arguments += ["--reference", str(judging.reference.resolve())]
    return arguments


def _run(command: list[str], log: Path) -> str:
    with log.open("wb") as log_file:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_file,
            preexec_fn=_die_with_parent,
        )
    if done.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_LOG_TAIL_LINES:]
        said = "".join(f"\n  {line}" for line in lines)
        hint = f"its whole log is {log}; nothing was signed, and the bundles are kept for the next try"
        how = f"ended with {done.returncode}"
        if done.returncode < 0:
            how = f"was killed by signal {-done.returncode}"
            hint = f"no memory left for it? Free some and run the same command again; {hint}"
        raise TwinError(f"the twin {how}{said}", hint=hint)
    return done.stdout.decode("utf-8", errors="replace")


def _die_with_parent() -> None:
    # A twin that outlives us would hold the release key and write where the next one works.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _parse(printed: str, rehearsal: Rehearsal) -> Rehearsed:
    try:
        result: Any = json.loads(printed)
        digest = bytes.fromhex(result["digest"])
        answers = tuple(_answer(item) for item in result["answers"])
        quality = None if rehearsal.judging is None else _quality(result["quality"], rehearsal.judging)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, DecodeError) as error:
        raise TwinError(
            f"the twin printed something else than its result: {error!r}",
            hint="skyload and skyloadd must be of the same version",
        ) from None
    if digest != rehearsal.release_digest:
        raise TwinError(
            f"the twin rebuilt release {digest.hex()[:16]}, not {rehearsal.release_digest.hex()[:16]}",
            hint="do not touch the files of a release while it is staged; run the same command again",
        )
    if len(answers) != len(rehearsal.prompts):
        raise TwinError(
            f"the twin answered {len(answers)} of {len(rehearsal.prompts)} prompts",
            hint="skyload and skyloadd must be of the same version",
        )
    if rehearsal.prompts and not any(answer.tokens for answer in answers):
        raise TwinError("the twin answered nothing to any prompt", hint="a canary of silence proves nothing: --canary")
    return Rehearsed(answers=answers, quality=quality)


def _quality(item: Any, judging: Judging) -> Quality:  # noqa: ANN401 - parsed JSON
    """Round what the twin found to the integers that a manifest holds; a figure that is no number raises."""
    there = item["reference"]
    if (there is None) != (judging.reference is None):
        raise ValueError("judged against something else")
    reference = None
    if there is not None:
        reference = QualityReference(
            perplexity_milli=round(1000 * there["perplexity"]),
            divergence_micro=round(1e6 * there["divergence"]),
        )
    quality = Quality(
        text_sha256=bytes.fromhex(item["text"]),
        num_tokens=item["num_tokens"],
        perplexity_milli=round(1000 * item["perplexity"]),
        reference=reference,
    )
    return Quality.from_map(quality.as_map())  # as a manifest will be read


def _answer(item: Any) -> TwinAnswer:  # noqa: ANN401 - parsed JSON
    tokens = tuple(item["tokens"])
    if len(tokens) > CANARY_TOKENS_MAX or not all(type(token) is int and 0 <= token < 2**31 for token in tokens):
        raise ValueError("tokens are no token ids")
    return TwinAnswer(tokens=tokens, text=str(item["text"]))
