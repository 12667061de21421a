"""`make bench NAME=codec`: the weight codec beside its peers and the entropy bounds, on real weights.

The models are made by bench/codec/data.py where they are missing, which takes half an hour of a core; with `--quick`
stand-ins of a minute take their place, as in the tests. Peers and bounds are kept from run to run, by digest, and so
are the points of update-aware curves: what the two curves of the figures lack is made, half an hour of a core; those
of LoRA and of polished bases by `python -m bench.codec.curves`.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.codec import aware, checkpoints, curves, data, memory, noise, ours, peers
from bench.codec.checkpoints import Weights
from bench.codec.memory import Peak
from bench.codec.plot import draw
from bench.codec.rows import Bench, Kept, Row, format_of
from bench.results import PAGE, markdown_table

FULL_FORMATS = ["bf16", "int8", "int4_g32", "int4_g128", "int4_g32_asym", "int4_g128_asym", "q8_0", "q4_1", "q4_k"]
DELTA_FORMATS = FULL_FORMATS
UPDATES = {"": "v2", " lora": "v2-lora"}
BARS = {"full": 1.01, "delta": 1.05}
PLOT = PAGE.parent / "benchmarks-codec"
NOTES = """\
- Sizes in % of the raw bytes of the same tensors: a seeded sample, one linear layer of each kind and a slice of the
  embedding; for groups of 128 and Q4_K, which 576 columns are no multiple of, down projections of four blocks.
- `ours` is what crosses the link: streams, heads, row and tag of each segment. `bound` knows its tables for nothing and
  has no heads (bench/codec/bounds.py says what it may look at).
- `bytes above, a tensor`: ours less the bound. Small deltas of small tensors are heads and tables for the most part: a
  hundred bytes are 5 % of a delta of two thousand. They do not grow with the tensor.
- `best peer` takes the best peer for each tensor and adds up; its name is of the peer that is best for all together.
  `worst` is ours over the best peer of the tensor that is worst for us, or of tensors that travel in one piece and
  cannot be told apart: under 1 says never larger. There ours is without the row and the tag of a segment, 48 bytes for
  up to 4 MiB: they say where its bytes go and that they are genuine, which no peer's output does. With its share of
  them a tensor that a LoRA leaves alone costs some 30 bytes, where the best peer takes 24.
- Speeds are MB of the model by CPU second of one core, medians of what fills half a second, in a process that goes on:
  a first run does not count. Encoding includes decoding everything once more to check it, decoding AES-256-GCM, reading
  the base, and SHA-256. Other work on the machine shares its caches: 10-20 %.
- Memory: packer and decoder in processes of their own, on the fine-tune above and on two synthetic updates of large
  matrices (bench/codec/memory.py).
- Models: SmolLM2-135M-Instruct as Qwen2, off its 4-bit grid by noise and a short distillation; `v2` a full fine-tune of
  200 steps at 1e-5, `lora` a merged adapter of rank 16. Gemma 3 270M is dequantized from Q4_K_M, with noise of a step;
  its q4_k row is the file's own tensors."""

AWARE_NOTES = f"""\
- Update-aware: whole releases, embeddings in bf16 and all, as the packer sends them, against what one would send
  without it (fresh), by the same packer: int8 rounded to nearest, int4 by GPTQ; `against` names a better one, GPTQ
  polished by the same descent. Perplexity and KL (to the new model, not quantized, nats a token) are of the releases'
  own bytes, on {curves.HELD_OUT_TOKENS} held-out tokens; ± is the standard error of the difference to fresh. Codes were
  chosen on {curves.CALIBRATION_TOKENS} others. Where no release is within 0.5 %, the best is told.
- Bases: v1 rounded (int8), by GPTQ (int4), and by GPTQ and polished as `skyload model quantize --calibration` does."""


def measure(options: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Run it all; returns tables and figures."""
    arguments = _arguments(options)
    missing = [] if arguments.no_peers else peers.prepare()
    if missing:
        print(f"  not here, so not measured: {', '.join(missing)}", file=sys.stderr, flush=True)
    if not arguments.as_it_is:
        data.make(arguments.directory, "quick" if arguments.quick else None)
    scratch = Path(tempfile.mkdtemp(prefix="skyload-codec-"))
    try:
        bench = Bench(
            directory=scratch,
            kept=Kept(arguments.directory / "peers.json"),
            runs=arguments.runs,
            has_peers=not arguments.no_peers,
        )
        full, delta = list(_full_rows(bench, arguments)), list(_delta_rows(bench, arguments))
        models = _models(arguments)
        peaks = [] if arguments.no_memory else memory.measure(models / "v2", models / "v1", scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    draw(full, delta, arguments.plot)
    if not arguments.quick:
        aware.draw(arguments.directory, arguments.plot.with_name(f"{arguments.plot.name}-aware"))
    rows = full + delta
    figures: dict[str, Any] = {
        "full": {row.key: row.figures() for row in full},
        "delta": {row.key: row.figures() for row in delta},
        "aware": {} if arguments.quick else aware.figures(arguments.directory),
        "decode_mb_s": round(min(row.decode_mb_s for row in rows), 1),
        "encode_mb_s": round(min(row.encode_mb_s for row in rows), 1),
        **(memory.figures(peaks) if peaks else {}),
    }
    return _text(full, delta, peaks, figures, arguments, missing), figures


def illustrate(_: dict[str, Any]) -> str:
    """Return what shows the picture in docs/benchmarks.md."""
    aware_plot = PLOT.with_name(f"{PLOT.name}-aware.svg")
    shown = f"![Bytes of update-aware deltas against perplexity]({aware_plot.name})\n\n" if aware_plot.exists() else ""
    return f"![Sizes beside the bounds and the best peers]({PLOT.name}.svg)\n\n{shown}"


def _arguments(options: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench NAME=codec")
    parser.add_argument("--directory", type=Path, default=data.DIRECTORY, help="of the models (default: .cache/codec)")
    parser.add_argument("--quick", action="store_true", help="on stand-ins without training, SmolLM2 only")
    parser.add_argument("--as-it-is", action="store_true", help="make no models; leave out rows of those that miss")
    parser.add_argument(
        "--runs", type=int, default=5, help="of each decoding at least, and three of each encoding; the median counts"
    )
    parser.add_argument("--formats", nargs="*", default=FULL_FORMATS, help="only these")
    parser.add_argument("--no-peers", action="store_true", help="ours and the bounds only")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory of both ends")
    parser.add_argument("--plot", type=Path, default=PLOT, help="where the picture goes, without its ending")
    return parser.parse_args(options)


def _models(arguments: argparse.Namespace) -> Path:
    directory: Path = arguments.directory
    return directory / "quick" if arguments.quick else directory


def _full_rows(bench: Bench, arguments: argparse.Namespace) -> Iterator[Row]:
    weights = checkpoints.load(_models(arguments) / "v2")
    for name in arguments.formats:
        yield _told(bench.full(name, format_of(name), weights))
    if arguments.quick:
        return
    from bench.codec import gemma

    weights = noise.leave_grid(gemma.load(arguments.directory), seed=data.SEED)
    for name in arguments.formats:
        if name != "q4_k":
            yield _told(bench.full(f"{name} gemma", format_of(name), weights))
    if "q4_k" in arguments.formats:
        path, matrices = gemma.own_q4_k(arguments.directory, bench.directory / "gemma")
        yield _told(bench.measure("q4_k gemma", matrices, None, path.parent, None))


def _delta_rows(bench: Bench, arguments: argparse.Namespace) -> Iterator[Row]:
    models = _models(arguments)
    old = checkpoints.load(models / "v1")
    for suffix, model in UPDATES.items():
        if not (models / model).exists():
            continue
        new: Weights = checkpoints.load(models / model)
        for name in arguments.formats:
            yield _told(bench.delta(f"{name}{suffix}", format_of(name), new, old))
        if (models / f"{model}-int4").exists():
            yield _told(bench.calibrated(f"int4_gptq{suffix}", models / f"{model}-int4", models / "v1-int4"))


def _told(row: Row) -> Row:
    ratio = row.ours / row.bound
    print(
        f"  {row.key:22} ours {row.ours / row.raw:.5f} = {ratio:.4f} of the bound, best peer {row.best / row.raw:.5f}, "
        f"encode {row.encode_mb_s:.0f}, decode {row.decode_mb_s:.0f} MB/s",
        file=sys.stderr,
        flush=True,
    )
    return row


def _text(
    full: Sequence[Row],
    delta: Sequence[Row],
    peaks: Sequence[Peak],
    figures: dict[str, Any],
    arguments: argparse.Namespace,
    missing: Sequence[str],
) -> str:
    parts = [_table("full", full), _table("delta", delta)]
    ends = [
        ["decode, slowest format, MB/s a core", figures["decode_mb_s"], "at least 200"],
        ["encode, slowest format, MB/s a core", figures["encode_mb_s"], "at least 20"],
    ]
    for peak in peaks:
        what = f"{peak.name}, {peak.raw_mb:.0f} MB with its base"
        ends.append([f"decoder, peak resident MB: {what}", round(peak.decoder_mb, 1), "under 150"])
        ends.append([f"packer and its workers, peak resident MB: {what}", round(peak.packer_mb, 1), "under 1000"])
    ends.append(["SHA-256 on this core, MB/s, to compare machines", round(ours.sha256_mb_s()), ""])
    parts.append(markdown_table(["figure", "value", "bar"], ends))
    if figures["aware"]:
        parts += [_aware_table(figures["aware"]), aware.text(arguments.directory), AWARE_NOTES]
    if full and full[0].peers:
        parts.append("All peers, in % of the raw bytes:\n\n" + _peers_table(full) + "\n\n" + _peers_table(delta))
    parts.append(NOTES)
    judged = arguments.directory / "models.json"
    if not arguments.quick and judged.exists():
        found = json.loads(judged.read_text())
        shown = ", ".join(f"{name} {value:.2f}" for name, value in found["perplexity"].items())
        parts.append(f"Perplexity on {found['held_out_tokens']} tokens held out: {shown}.")
    if full and full[0].peers:
        left_out = f" Not here, so not measured: {', '.join(missing)}." if missing else ""
        parts.append(f"Peers: {peers.versions()}.{left_out}")
    return "\n\n".join(parts)


def _table(name: str, rows: Sequence[Row]) -> str:
    head = [name, "raw MB", "ours", "bound", "best peer", "named", f"ours / bound (at most {BARS[name]})"]
    head += ["bytes above, a tensor", "ours / best", "worst", "encode", "decode"]
    return markdown_table(
        head,
        [
            [
                row.key,
                f"{row.raw / 1e6:.2f}",
                _percent(row.ours, row),
                _percent(row.bound, row),
                _percent(row.best, row) if row.peers else "",
                row.best_name if row.peers else "",
                f"{row.ours / row.bound:.4f}",
                f"{(row.ours - row.bound) / row.tensors:.0f}",
                f"{row.ours / row.best:.4f}" if row.best else "",
                f"{row.worst:.4f}" if row.best else "",
                f"{row.encode_mb_s:.0f}",
                f"{row.decode_mb_s:.0f}",
            ]
            for row in rows
        ],
    )


def _aware_table(found: dict[str, Any]) -> str:
    head = ["update-aware", "fresh MB", "perplexity", "ours, MB", "share (at most 0.5)", "loss"]
    head += ["within 1 %, MB", "share (at most 0.4)", "loss"]
    rows = []
    for name, entry in found.items():
        row = [name, f"{entry['lossless_bytes'] / 1e6:.3f}", f"{entry['naive_ppl']:.3f}"]
        for chosen in (entry, entry["within_1_percent"]):
            row += ["none", "", ""] if chosen is None else _aware_cells(chosen, entry)
        rows.append(row)
    return markdown_table(head, rows)


def _aware_cells(chosen: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    loss = 100 * (chosen["ppl"] / entry["naive_ppl"] - 1)
    return [f"{chosen['bytes'] / 1e6:.3f}", f"{chosen['bytes'] / entry['lossless_bytes']:.3f}", f"{loss:+.2f} %"]


def _peers_table(rows: Sequence[Row]) -> str:
    names = list(rows[0].peers)
    return markdown_table(
        ["", *names], [[row.key, *(_percent(row.peers[name], row) for name in names)] for row in rows]
    )


def _percent(size: float, row: Row) -> str:
    share = size / row.raw * 100
    return f"{share:.2f}" if share >= 10 else f"{share:.3f}"
