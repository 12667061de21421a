"""Codes on a base's grid written as a release: the base's layout, its shards and every byte that need not change.

The weight files have the base's names, tensors and order, so that a delta finds everything in its place; config and
tokenizer files are the new model's, as `skyload model quantize` would write them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from groundsegment.models.output_directory import check_space, whole_directory
from groundsegment.models.quantize import SHARD_BYTES, QuantizePlan, copy_other_files
from groundsegment.models.rounding import pack_nibbles
from groundsegment.models.safetensors_file import CheckpointWriter
from groundsegment.requantize.candidate import Candidate
from groundsegment.requantize.report import REPORT_NAME


def write_release(
    plan: QuantizePlan, out: Path, candidate: Candidate, *, report: Mapping[str, Any], force: bool = False
) -> None:
    """Write a quantized release, whole or not at all.

    Args:
        plan: the layout.
        out: the directory that appears.
        candidate: what is written.
        report: what is written beside the weights; it does not fly.
        force: replace a model that is there already.
    """
    codes, scales = candidate.codes, candidate.grid.scales
    check_space(out, plan.output_bytes)
    with whole_directory(out, force=force) as directory:
        copy_other_files(plan, directory)
        with CheckpointWriter(directory, plan.specs, shard_bytes=SHARD_BYTES) as writer:
            for info in plan.others:
                writer.write(info.name, candidate.others[info.name].tobytes())
            for matrix in plan.matrices:
                writer.write(f"{matrix.name}_scale", scales[matrix.name].tobytes())
                if plan.format == "int8":
                    writer.write(matrix.name, codes[matrix.name].tobytes())
                    continue
                writer.write(f"{matrix.name}_shape", np.array(matrix.shape, "<i8").tobytes())
                writer.write(f"{matrix.name}_packed", pack_nibbles(codes[matrix.name]).tobytes())
        text = json.dumps(report, indent=2, sort_keys=True) + "\n"
        (directory / REPORT_NAME).write_text(text, encoding="utf-8")
