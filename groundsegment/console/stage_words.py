"""What `skyload stage` says: what it chose, what it would come to, what it made."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundsegment.console.output import err, out, print_json
from groundsegment.console.stage_quality import quality_as_json, quality_words

if TYPE_CHECKING:
    from groundsegment.packer.estimating import Estimate
    from groundsegment.packer.explain import Explanation
    from groundsegment.packer.tally import Tally, Totals
    from groundsegment.staging.records import Prepared, Staged, StageOptions
    from groundsegment.staging.staging import OnProgress
    from protocol.codec.kinds import TransformKind

_AIRTIME_RATES_BPS = (256e3, 1e6, 10e6)  # S-band, fast S-band, X-band uplinks
_DATAGRAM_OVERHEAD = 48  # bytes of frame, UDP and IPv4 around a symbol
TRANSFORM_WORDS = {
    "BYTES": "bytes",
    "SAME": "unchanged",
    "BYTES_DELTA": "difference of bytes",
    "BYTES_MATCHES": "bytes found in the base's",
    "FLOATS": "floats",
    "FLOATS_DELTA": "difference of floats",
    "INTEGERS": "integers",
    "INTEGERS_DELTA": "difference of integers",
    "NIBBLES": "4-bit codes",
    "NIBBLES_DELTA": "difference of 4-bit codes",
    "GGUF": "GGUF blocks",
    "GGUF_DELTA": "difference of GGUF blocks",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Explaining:
    """Whether and how the choices are explained."""

    is_printed: bool
    plot: Path | None

    def of(self, prepared: "Prepared", tally: "Tally", *, payload_bytes: int, is_exact: bool) -> "Explanation | None":
        """Explain, and draw, if that is wanted."""
        if not self.is_printed and self.plot is None:
            return None
        from groundsegment.packer.explain import explain
        from groundsegment.planner.quantities import format_bytes

        explained = explain(prepared.plan.survey, tally, payload_bytes=payload_bytes, is_exact=is_exact)
        if self.plot is not None:
            from groundsegment.packer.explain_plot import save_plot

            how = "" if is_exact else ", estimated"
            title = f"{prepared.name}: {format_bytes(payload_bytes)} to send{how}"
            save_plot(explained, self.plot, title=title)
            err.print(f"drawn: {self.plot}", markup=False)
        return explained

    def print(self, explained: "Explanation | None") -> None:
        """Print an explanation for people."""
        from groundsegment.console.stage_explain import print_explanation

        if explained is not None and self.is_printed:
            print_explanation(explained)

    def as_json(self, explained: "Explanation | None") -> dict[str, Any]:
        """The same as a field of a JSON object."""
        from groundsegment.console.stage_explain import explanation_as_json

        return {"explain": explanation_as_json(explained)} if explained is not None and self.is_printed else {}


def tell_choice(prepared: "Prepared") -> None:
    """Say which base was chosen and why, and what the operator may not expect."""
    err.print(prepared.base.reason, markup=False)
    for warning in prepared.warnings:
        err.print(f"warning: {warning}", markup=False)


def tell_estimate(
    prepared: "Prepared", options: "StageOptions", wanted: "Explaining", on_progress: "OnProgress", *, as_json: bool
) -> None:
    """Say what an update would come to."""
    from groundsegment.packer.estimating import estimate
    from groundsegment.planner.quantities import format_bytes

    guess = estimate(
        prepared.plan, prepared.sources, workers=options.workers, on_progress=partial(on_progress, "estimating")
    )
    is_exact = guess.num_sampled == guess.num_segments
    explained = wanted.of(prepared, guess.tally, payload_bytes=guess.payload_bytes, is_exact=is_exact)
    if as_json:
        print_json(
            {
                **_facts(prepared),
                "dry_run": True,
                "payload_bytes": guess.payload_bytes,
                "num_bundles": guess.num_bundles,
                "num_segments": guess.num_segments,
                "num_sampled": guess.num_sampled,
                "error_bytes": guess.error_bytes,
                "by_transform": _transforms_as_json(guess.tally.by_transform),
                **wanted.as_json(explained),
            }
        )
        return
    tell_choice(prepared)
    out.print(f"{prepared.name} for {prepared.satellite.name}, release {prepared.release.digest.hex()[:16]}")
    _print_sizes(prepared, guess.payload_bytes, guess.num_bundles, guess.tally.by_transform)
    wanted.print(explained)
    if options.payload_bytes_max is not None and guess.payload_bytes > options.payload_bytes_max:
        fitting = f"only {format_bytes(options.payload_bytes_max)} fit"
        err.print(f"warning: {fitting}; without --dry-run it is made again, tighter", markup=False)
    _print_how_sure(guess)


def _print_how_sure(guess: "Estimate") -> None:
    from groundsegment.planner.quantities import format_bytes

    share = f"{guess.num_sampled} of {guess.num_segments} segments"
    sure = "exact" if guess.num_sampled == guess.num_segments else f"± {format_bytes(guess.error_bytes)}, estimated"
    err.print(f"nothing was written; {sure} from {share}", markup=False)


def tell_staged(
    prepared: "Prepared", staged: "Staged", options: "StageOptions", wanted: "Explaining", *, as_json: bool
) -> None:
    """Say what was staged."""
    update, packed = staged.update, staged.packed
    explained = wanted.of(prepared, packed.tally, payload_bytes=packed.payload_bytes, is_exact=True)
    if as_json:
        print_json(
            {
                **_facts(prepared),
                "update": update.handle.hex(),
                "sequence": update.sequence,
                "priority": update.priority,
                "weight": update.weight,
                "beside": update.beside,
                "lanes": update.lanes,
                "symbol_size": update.symbol_size,
                "payload_bytes": update.payload_bytes,
                "num_bundles": len(packed.bundles),
                "num_bundles_reused": packed.num_reused,
                "num_segments": staged.manifest.num_segments,
                "by_transform": _transforms_as_json(packed.tally.by_transform),
                **wanted.as_json(explained),
                "directory": str(update.directory),
                "quality": quality_as_json(staged.manifest.quality),
                "canary": [
                    {"prompt": prompt, "text": answer.text, "tokens": list(answer.tokens)}
                    for prompt, answer in zip(options.prompts, staged.answers, strict=True)
                ],
            }
        )
        return
    if packed.num_reused:
        err.print(f"{packed.num_reused} bundles of an interrupted run were used again", markup=False)
    out.print(f"update {update.handle.hex()}: {update.release_name} for {update.satellite}, sequence {update.sequence}")
    _print_sizes(prepared, update.payload_bytes, len(packed.bundles), packed.tally.by_transform)
    wanted.print(explained)
    for prompt, answer in zip(options.prompts, staged.answers, strict=True):
        out.print(f"  canary: {_short(prompt)} -> {_short(answer.text)}", markup=False)
    if staged.manifest.quality is not None:
        out.print(f"  quality as rebuilt: {quality_words(staged.manifest.quality)}", markup=False)
    if not options.prompts:
        err.print("no canary: once it loads on board it is taken for good", markup=False)
    err.print(
        f"next: skyload plan --for {update.satellite}, then skyload uplink --for {update.satellite}", markup=False
    )


def _facts(prepared: "Prepared") -> dict[str, Any]:
    base = prepared.base.release
    return {
        "satellite": prepared.satellite.name,
        "release_name": prepared.name,
        "release_digest": prepared.release.digest.hex(),
        "installed_bytes": prepared.release.size_bytes,
        "base_digest": base.digest.hex() if base else None,
        "base_reason": prepared.base.reason,
        "bundle_size_bytes": prepared.plan.bundle_size_bytes,
        "warnings": list(prepared.warnings),
    }


def _transforms_as_json(by_transform: dict["TransformKind", "Totals"]) -> dict[str, Any]:
    return {transform.name.lower(): dataclasses.asdict(totals) for transform, totals in by_transform.items()}


def _print_sizes(
    prepared: "Prepared", payload_bytes: int, num_bundles: int, by_transform: dict["TransformKind", "Totals"]
) -> None:
    from groundsegment.planner.quantities import format_bytes, format_duration, format_rate

    installed = prepared.release.size_bytes
    percent = 100 * payload_bytes / max(1, installed)
    out.print(
        f"  {format_bytes(installed)} on board, {format_bytes(payload_bytes)} to send ({percent:.1f} %), "
        f"{num_bundles} bundle{'s' * (num_bundles != 1)}",
        markup=False,
    )
    for transform, totals in by_transform.items():
        sizes = f"{format_bytes(totals.raw_bytes)} -> {format_bytes(totals.coded_bytes)}"
        out.print(f"  {TRANSFORM_WORDS[transform.name]:26} {sizes}", markup=False)
    share = 1 + _DATAGRAM_OVERHEAD / prepared.symbol_size
    airtimes = [
        f"{format_duration(payload_bytes * share * 8 / rate)} at {format_rate(rate)}" for rate in _AIRTIME_RATES_BPS
    ]
    out.print(f"  airtime without loss: {', '.join(airtimes)}", markup=False)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."
