"""The rows of the result: one format of one model, whole or against its base; ours, the peers and the bound beside it.

What peers and bounds make of given bytes never changes, so it is kept in a file, by digest and versions: a second run
measures only us.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.codec import bounds, calibrated, ours, peers, samples
from bench.codec.checkpoints import Weights
from bench.codec.samples import FORMATS, Format, Matrix
from groundsegment.models.safetensors_file import read_header

# Raise it with any change of what a peer is given or how a bound is computed.
_VERSION = 1
_ENCODE_RUNS_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured row; sizes in bytes, of all matrices of the sample.

    Attributes:
        key: in the figures: the format, and the model or update where it is not SmolLM2 and the full fine-tune.
        tensors: how many.
        raw: as stored.
        ours: on the link.
        bound: computed.
        peers: by name.
        best: the best peer for each matrix, added up.
        worst: ours without rows and tags over the best peer, of the matrix where that is largest, or of matrices that
            share pieces.
        encode_mb_s: of raw bytes, one core.
        decode_mb_s: the same.
        transforms: raw bytes by the transform chosen.
    """

    key: str
    tensors: int
    raw: int
    ours: float
    bound: float
    peers: Mapping[str, int]
    best: int
    worst: float
    encode_mb_s: float
    decode_mb_s: float
    transforms: Mapping[str, int]

    @property
    def best_name(self) -> str:
        """The peer that is best for all matrices together."""
        return min(self.peers, key=lambda name: self.peers[name])

    def figures(self) -> dict[str, float]:
        """Return the row's figures as the results say them."""
        return {
            "ratio": round(self.ours / self.raw, 5),
            "bound": round(self.bound / self.raw, 5),
            "best_peer": round(self.best / self.raw, 5),
        }


class Kept:
    """Figures by digest, in a JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """Return what is known, or compute and keep it."""
        if key not in self._known:
            self._known[key] = compute()
            part = self._path.with_suffix(".part")
            part.write_text(json.dumps(self._known))
            part.replace(self._path)
        return self._known[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What is needed for every row.

    Attributes:
        directory: samples are written there.
        kept: peers and bounds known from earlier runs.
        runs: of the decoder.
        has_peers: whether they are run; bounds only without.
    """

    directory: Path
    kept: Kept
    runs: int
    has_peers: bool = True

    def full(self, key: str, form: Format, weights: Weights) -> Row:
        """Measure a format of a model without a base."""
        path, matrices = samples.build(weights, form, self.directory / key / "new")
        return self.measure(key, matrices, None, path.parent, None)

    def delta(self, key: str, form: Format, new: Weights, old: Weights) -> Row:
        """Measure a format of a model against the same of its base."""
        path, matrices = samples.build(new, form, self.directory / key / "new")
        base, olds = samples.build(old, form, self.directory / key / "old")
        return self.measure(key, matrices, olds, path.parent, base.parent)

    def calibrated(self, key: str, new: Path, old: Path) -> Row:
        """Measure a sample of a calibrated int4 release against the same of its base."""
        infos, _ = read_header(new / "model.safetensors")
        names = samples.linears(samples.num_blocks(info.name for info in infos))
        news, olds = calibrated.read(new, names), calibrated.read(old, names)
        for name, matrices in (("new", news), ("old", olds)):
            samples.write(self.directory / key / name / "model.safetensors", matrices)
        return self.measure(key, news, olds, self.directory / key / "new", self.directory / key / "old")

    def measure(self, key: str, news: list[Matrix], olds: list[Matrix] | None, release: Path, base: Path | None) -> Row:
        """Measure matrices that lie in a directory as a release, against a base in another or none."""
        packed = ours.pack(release, base, runs=min(_ENCODE_RUNS_MAX, self.runs))
        found = [self._judged(new, olds[number] if olds else None) for number, new in enumerate(news)]
        own = {matrix.name: packed.size_of(matrix.name) for matrix in news}
        coded = {matrix.name: packed.coded_of(matrix.name) for matrix in news}
        bests = {new.name: min(sizes.values(), default=0) for new, (_, sizes) in zip(news, found, strict=True)}
        groups = packed.groups(list(own))
        return Row(
            key=key,
            tensors=len(news),
            raw=sum(matrix.size_bytes for matrix in news),
            ours=sum(own.values()),
            bound=sum(bound for bound, _ in found),
            peers={name: sum(sizes[name] for _, sizes in found) for name in found[0][1]},
            best=sum(bests.values()),
            worst=max(_ratio(coded, bests, group) for group in groups),
            encode_mb_s=packed.raw_bytes / 1e6 / packed.encode_s,
            decode_mb_s=ours.decode_mb_s(packed, self.runs),
            transforms=packed.transforms,
        )

    def _judged(self, new: Matrix, old: Matrix | None) -> tuple[float, dict[str, int]]:
        name = _digest(new, old)
        bound = self.kept.get(f"bound {name}", lambda: bounds.delta_bytes(new, old) if old else bounds.full_bytes(new))
        if not self.has_peers:
            return bound, {}
        versions = peers.versions()
        sizes = self.kept.get(
            f"{versions} {name}", lambda: peers.delta_sizes(new, old) if old else peers.full_sizes(new)
        )
        return bound, sizes


def _ratio(own: Mapping[str, float], bests: Mapping[str, int], group: Sequence[str]) -> float:
    best = sum(bests[name] for name in group)
    return sum(own[name] for name in group) / best if best else 0.0


def _digest(new: Matrix, old: Matrix | None) -> str:
    digest = hashlib.sha256(f"{_VERSION} {new.kind} {new.rows} {new.columns} {new.group_columns}".encode())
    for matrix in (new, old) if old else (new,):
        for part in matrix.parts.values():
            digest.update(part)
    return digest.hexdigest()


def format_of(name: str) -> Format:
    """Return a format by its name."""
    return FORMATS[name]
