"""Bytes on the link against quality: curves of update-aware quantization, point by point, each kept when it is done.

On board is v1, quantized; new is v2 (a full fine-tune) or v2-lora (a merged adapter). Every point is a release:
written, packed by the packer itself against what is on board, read again from its files and asked for the held-out
text. So are those that one would send without all this: rounded to nearest, calibrated by GPTQ, the same polished.

    python -m bench.codec.curves --directory DIR [--case "int4 lora"]

A point takes from half a minute (int8) to three (int4) of a core, a curve up to twenty, all of them an hour and a half.
Each is kept in DIR/aware when it is done: interrupted, the same command goes on.
"""

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.codec import calibrated, data, ours

CALIBRATION_TOKENS, HELD_OUT_TOKENS, LENGTH = 8192, 4096, 256
SHARES = (0.02, 0.05, 0.1, 0.2, 0.33, 0.47)  # of the fresh delta: where thinning is asked for sizes
PRICES = (1e-10, 3e-11, 1e-9, 1e-11, 1e-8)  # nats a token for a bit: where descent is asked for what pays
_BATCH = 2  # sequences whose surprise is kept apart, to say how sure a difference is


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One curve.

    Attributes:
        name: of it.
        form: int8 or int4.
        base: the release on board.
        new: the float model that is to be there.
        fresh: what one would send without this: releases by how they were made, the one of comparison first.
    """

    name: str
    form: str
    base: str
    new: str
    fresh: Mapping[str, str]


def _int8(name: str, new: str) -> Case:
    # GPTQ is no better at eight bits and sends twice as much, as the first of these curves shows.
    fresh = {"rounded": f"{new}-int8"} | ({"gptq": f"{new}-int8-gptq"} if new == "v2" else {})
    return Case(name=name, form="int8", base="v1-int8", new=new, fresh=fresh)


def _int4(name: str, new: str) -> Case:
    fresh = {"gptq": f"{new}-int4", "gptq, polished": f"{new}-int4-polished", "rounded": f"{new}-int4-rounded"}
    return Case(name=name, form="int4", base="v1-int4", new=new, fresh=fresh)


def _polished(name: str, new: str) -> Case:
    fresh = {"gptq, polished": f"{new}-int4-polished", "gptq": f"{new}-int4"}
    return Case(name=name, form="int4", base="v1-int4-polished", new=new, fresh=fresh)


CASES = (
    _int8("int8", "v2"),
    _int4("int4", "v2"),
    _int8("int8 lora", "v2-lora"),
    _int4("int4 lora", "v2-lora"),
    _polished("int4 polished", "v2"),
    _polished("int4 polished lora", "v2-lora"),
)


def path_of(directory: Path, case: Case) -> Path:
    """Return the file of a curve's points."""
    return directory / "aware" / f"{case.name.replace(' ', '-')}.json"


def load(directory: Path, case: Case) -> dict[str, Any] | None:
    """Return what is known of a curve; None for nothing, or if its models are not those that are there."""
    path = path_of(directory, case)
    known: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return known if known is not None and known["models"] == _stamp(directory, case) else None


def _stamp(directory: Path, case: Case) -> str:
    """Tell models that were trained anew by what is in the middle of their weights."""
    found = hashlib.sha256()
    for name in ("v1", case.new):
        path = directory / name / "model.safetensors"
        if path.exists():
            with path.open("rb") as file:
                file.seek(path.stat().st_size // 2)
                found.update(file.read(1 << 20))
    return found.hexdigest()[:16]


def make(directory: Path, only: Sequence[str] = ()) -> None:
    """Make what is missing of the curves."""
    (directory / "aware").mkdir(exist_ok=True)
    for case in CASES:
        if not only or case.name in only:
            _Maker(directory, case).run()


class _Maker:
    """Makes one curve."""

    def __init__(self, directory: Path, case: Case) -> None:
        self._directory, self._case = directory, case
        fresh = {"models": _stamp(directory, case), "tokens": HELD_OUT_TOKENS, "points": []}
        self._kept = load(directory, case) or fresh

    def run(self) -> None:
        """Make every point that is missing."""
        import torch

        torch.set_num_threads(1)
        case = self._case
        if "float" not in self._kept:
            self._kept["float"] = self._judge()
            self._save()
        self._point("nothing", lambda: self._directory / case.base)
        usual, *others = case.fresh
        self._fresh_point(usual)
        if case.form == "int4":
            for price in PRICES:
                self._point(f"aware {price:g}", partial(self._aware_at_price, price), is_kept=False)
        else:
            for share in SHARES:
                size_bytes = share * self._known(usual)["bytes"]
                self._point(f"aware {share}", partial(self._aware_at_size, size_bytes), is_kept=False)
        for how in others:
            self._fresh_point(how)

    def _fresh_point(self, how: str) -> None:
        self._point(how, partial(self._fresh, how, self._case.fresh[how]))

    def _point(self, name: str, release: Any, *, is_kept: bool = True) -> None:
        if self._known(name) is not None:
            return
        began = time.process_time()
        path = release()
        point = {"name": name, "bytes": ours.pack(path, self._directory / self._case.base).stored_bytes}
        point |= self._judge(path) | {"cpu_s": round(time.process_time() - began, 1)}
        self._kept["points"].append(point)
        self._save()
        if not is_kept:
            shutil.rmtree(path)
        print(f"  {self._case.name}, {name}: {point['bytes']} B, {point['ppl']}", file=sys.stderr, flush=True)

    def _known(self, name: str) -> dict[str, Any]:
        found: Any = next((point for point in self._kept["points"] if point["name"] == name), None)
        return found

    def _save(self) -> None:
        part = path_of(self._directory, self._case).with_suffix(".part")
        part.write_text(json.dumps(self._kept, indent=1) + "\n")
        part.replace(path_of(self._directory, self._case))

    @cached_property
    def _work(self) -> Any:
        from groundsegment.models.release import scan_release
        from groundsegment.requantize.grid import plan_on_grid, read_grid
        from groundsegment.requantize.workpiece import Workpiece

        base = scan_release(self._base())
        old = plan_on_grid(scan_release(self._directory / "v1"), base)
        return Workpiece(self._plan, base, read_grid(self._plan, base), old)

    @cached_property
    def _plan(self) -> Any:
        from groundsegment.models.release import scan_release
        from groundsegment.requantize.grid import plan_on_grid

        return plan_on_grid(scan_release(self._directory / self._case.new), scan_release(self._base()))

    def _base(self) -> Path:
        base = self._directory / self._case.base
        if not base.exists():
            calibrated.release(self._directory, "v1", self._case.form, _way(base.name))
        return base

    def _fresh(self, how: str, name: str) -> Path:
        out = self._directory / name
        if not out.exists():
            calibrated.release(self._directory, self._case.new, self._case.form, how, out)
        return out

    @cached_property
    def _walk(self) -> Any:
        from groundsegment.requantize.text import read_sequences
        from groundsegment.requantize.walking import Walk

        new = self._directory / self._case.new
        sequences = read_sequences(self._directory / "train.txt", new, num_tokens=CALIBRATION_TOKENS, length=LENGTH)
        statistics = calibrated.statistics_of(self._directory, self._case.new, self._plan)
        return Walk(self._work, statistics, sequences, num_parts=1, scratch=self._directory / "aware")

    def _aware_at_size(self, size_bytes: float) -> Path:
        return self._write(self._walk.start(partial(self._walk.at_size, size_bytes=int(size_bytes))))

    def _aware_at_price(self, price: float) -> Path:
        return self._write(self._walk.start(partial(self._walk.settled, price=price)))

    def _write(self, step: Any) -> Path:
        from groundsegment.requantize.writing import write_release

        out = self._directory / "aware" / "release"
        write_release(self._plan, out, step.candidate, report={"price": step.price}, force=True)
        return out

    @cached_property
    def _text(self) -> Any:
        from groundsegment.requantize.text import read_sequences
        from groundsegment.requantize.workpiece import Text

        directory = self._directory
        sequences = read_sequences(
            directory / "held-out.txt", directory / self._case.new, num_tokens=HELD_OUT_TOKENS, length=LENGTH
        )
        teacher = self._work.show_new().log_probabilities(sequences, directory / "aware" / "held-out")
        return Text(sequences=sequences, teacher=teacher)

    def _judge(self, release: Path | None = None) -> dict[str, Any]:
        """Return perplexity and divergence of a release's files, or of the float model; surprise batch by batch."""
        text = self._text
        model = self._work.show_new() if release is None else self._work.show(self._read(release))
        found = []
        for first in range(0, len(text.sequences), _BATCH):
            some = text.sequences[first : first + _BATCH]
            found.append(model.evaluate(some, text.teacher[first * LENGTH : first * LENGTH + some.size]))
        surprise = [float(np.log(perplexity)) for perplexity, _ in found]
        return {
            "ppl": round(float(np.exp(np.mean(surprise))), 4),
            "kl": round(float(np.mean([divergence for _, divergence in found])), 6),
            "surprise": [round(value, 6) for value in surprise],
        }

    def _read(self, release: Path) -> Any:
        from groundsegment.models.release import scan_release
        from groundsegment.requantize.candidate import Candidate
        from groundsegment.requantize.grid import read_grid, read_tensor

        source = scan_release(release)
        there = {tensor.name: tensor for tensor in source.tensors()}
        grid, codes = read_grid(self._plan, source)
        others = {info.name: read_tensor(source, there[info.name]) for info in self._plan.others}
        return Candidate(grid=grid, codes=codes, others=others)


def _way(name: str) -> str:
    return "gptq, polished" if name.endswith("polished") else "gptq" if "int4" in name else "rounded"


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(prog="python -m bench.codec.curves", description=__doc__)
    parser.add_argument("--directory", type=Path, default=data.DIRECTORY)
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], default=[])
    arguments = parser.parse_args()
    make(arguments.directory, arguments.case)


if __name__ == "__main__":
    main()
