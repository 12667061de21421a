"""Text that every Debian machine with Python has: for training, calibration and held-out perplexity.

Docstrings of the standard library, and READMEs, copyright files and licences under /usr/share/doc. It is cut into
paragraphs, each kept once wherever it stands (licences repeat), so that nothing held out was trained on. Machines
differ in what is installed; `digest` of the corpus goes into the results.
"""

import ast
import gzip
import hashlib
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DOCUMENTS = Path("/usr/share/doc")
_NAMES = re.compile(r"(README|copyright|NEWS\.Debian|AUTHORS|NOTICE|LICENSE|FAQ|TODO)", re.IGNORECASE)
_FILE_BYTES_MAX = 200_000
_PARAGRAPH_CHARACTERS_MIN = 120
_HELD_OUT_SHARE = 0.1
_CHARACTERS_MAX = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Paragraphs, some to learn from and some only to be judged by."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    digest: str


def collect(seed: int) -> Corpus:
    """Read the corpus; the same files give the same corpus, in an order that depends on the seed alone."""
    known: dict[bytes, str] = {}
    for paragraph in _paragraphs():
        known.setdefault(hashlib.sha256(re.sub(r"\W+", " ", paragraph.lower()).encode()).digest(), paragraph)
    keys = sorted(known)
    np.random.default_rng(seed).shuffle(keys)
    train, held_out, size = [], [], 0
    for key in keys:
        # By its hash, not its place: a paragraph stays on its side when others come or go.
        side = held_out if key[0] < 256 * _HELD_OUT_SHARE else train
        side.append(known[key])
        size += len(known[key])
        if size > _CHARACTERS_MAX:
            break
    digest = hashlib.sha256("\0".join(train + held_out).encode()).hexdigest()
    return Corpus(train=tuple(train), held_out=tuple(held_out), digest=digest)


def _paragraphs() -> Iterator[str]:
    for text in _docstrings():
        yield from _split(text)
    for path in sorted(DOCUMENTS.glob("*/*")):
        if _NAMES.match(path.name) and path.is_file():
            yield from _split(_read(path))


def _split(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        clean = paragraph.strip("\n")
        if len(clean) >= _PARAGRAPH_CHARACTERS_MIN:
            yield clean


def _docstrings() -> Iterator[str]:
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield ast.get_docstring(node) or ""


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file, gzip.open(file) if path.suffix == ".gz" else file as content:
            return content.read(_FILE_BYTES_MAX).decode("utf-8", "replace")
    except OSError:
        return ""
