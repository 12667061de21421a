"""What a release is made of, counted from its headers: for people and scripts, before anything is staged."""

import json
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from groundsegment.models import gguf_file
from groundsegment.models.release import ReleaseSource, digest_files, release_digest
from groundsegment.models.tensor_info import TensorInfo

# First match wins; both Hugging Face's and GGUF's names.
_ROLES = (
    ("scales", r"(_scale|_scale_inv|_shape|_zero_point|\.scales|\.qzeros|\.g_idx)$"),
    ("embedding", r"(embed_tokens|token_embd|wte)\."),
    ("head", r"(^|\.)(lm_head|output)\."),
    ("norms", r"norm|\.ln_"),
    ("attention", r"self_attn\.|attention\.|\.attn"),
    ("feed-forward", r"\.mlp\.|\.ffn|experts|feed_forward"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What some tensors add up to."""

    num_tensors: int = 0
    num_parameters: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A release, counted.

    Attributes:
        source: the release.
        architecture: what its own configuration says, or "unknown".
        quantization: one line, "none" for plain floats.
        by_dtype: shares by stored type, largest first.
        by_role: shares by what the tensors do, largest first.
        files: (name, size, SHA-256 in hex), digests empty if they were not asked for.
        digest: of the whole release in hex, empty likewise.
    """

    source: ReleaseSource
    architecture: str
    quantization: str
    by_dtype: dict[str, Share]
    by_role: dict[str, Share]
    files: tuple[tuple[str, int, str], ...]
    digest: str

    @property
    def total(self) -> Share:
        """Return all tensors together."""
        return _sum(list(self.by_dtype.values()))


def inspect_release(
    source: ReleaseSource, *, with_digests: bool = True, progress: Callable[[int], None] | None = None
) -> Inspection:
    """Count a release; reads whole files only for their digests."""
    config = _config(source)
    bits = _bits(config)
    by_dtype: defaultdict[str, list[Share]] = defaultdict(list)
    by_role: defaultdict[str, list[Share]] = defaultdict(list)
    for tensor in source.tensors():
        share = Share(num_tensors=1, num_parameters=_num_parameters(tensor, bits), size_bytes=tensor.size_bytes)
        by_dtype[tensor.dtype].append(share)
        by_role[role_of(tensor.name)].append(share)
    files = [(file.name, file.size_bytes, "") for file in source.files]
    if with_digests:
        files = digest_files(source, progress)
    return Inspection(
        source=source,
        architecture=_architecture(source, config),
        quantization=_quantization(source, config, by_dtype),
        by_dtype=_largest_first(by_dtype),
        by_role=_largest_first(by_role),
        files=tuple(files),
        digest=release_digest(files) if with_digests else "",
    )


def role_of(name: str) -> str:
    """Return what a tensor of this name does in the model."""
    return next((role for role, pattern in _ROLES if re.search(pattern, name)), "other")


def as_json(inspection: Inspection) -> dict[str, Any]:
    """Return an inspection as plain JSON values."""
    return {
        "path": str(inspection.source.path),
        "name": inspection.source.release_name,
        "kind": inspection.source.kind,
        "architecture": inspection.architecture,
        "quantization": inspection.quantization,
        "release_digest": inspection.digest or None,
        "size_bytes": inspection.source.size_bytes,
        "total": _share_json(inspection.total),
        "by_dtype": {name: _share_json(share) for name, share in inspection.by_dtype.items()},
        "by_role": {name: _share_json(share) for name, share in inspection.by_role.items()},
        "files": [
            {"name": name, "size_bytes": size_bytes, "sha256": digest or None}
            for name, size_bytes, digest in inspection.files
        ],
        "skipped": [{"name": item.name, "reason": item.reason} for item in inspection.source.skipped],
    }


def _share_json(share: Share) -> dict[str, int]:
    return {
        "num_tensors": share.num_tensors,
        "num_parameters": share.num_parameters,
        "size_bytes": share.size_bytes,
    }


def _config(source: ReleaseSource) -> dict[str, Any]:
    if source.kind == "gguf":
        return gguf_file.read_gguf(source.files[0].path).metadata
    config = json.loads(source.path_of("config.json").read_bytes())
    assert isinstance(config, dict)  # scan_release made sure
    return config


def _architecture(source: ReleaseSource, config: dict[str, Any]) -> str:
    if source.kind == "gguf":
        return str(config.get("general.architecture", "unknown"))
    names = config.get("architectures")
    return str(names[0] if isinstance(names, list) and names else config.get("model_type", "unknown"))


def _weights_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """Return the first group's arguments of a compressed-tensors config, or the whole of another one's."""
    settings = _quantization_settings(config)
    groups = settings.get("config_groups") or {}
    first: object = next(iter(groups.values()), {}) if isinstance(groups, dict) else {}
    weights = first.get("weights") if isinstance(first, dict) else None
    return weights if isinstance(weights, dict) and weights else settings


def _quantization_settings(config: dict[str, Any]) -> dict[str, Any]:
    settings = config.get("quantization_config")
    return settings if isinstance(settings, dict) else {}


def _bits(config: dict[str, Any]) -> int:
    arguments = _weights_arguments(config)
    bits = arguments.get("num_bits", arguments.get("bits", 4))
    return bits if type(bits) is int and 1 <= bits <= 32 else 4


def _quantization(source: ReleaseSource, config: dict[str, Any], by_dtype: dict[str, list[Share]]) -> str:
    if source.kind == "gguf":
        quantized = [name for name in by_dtype if not re.fullmatch(r"B?F\d+", name)]
        return ", ".join(sorted(quantized)) or "none"
    settings = _quantization_settings(config)
    if not settings:
        return "none"
    arguments = _weights_arguments(config)
    parts = [str(settings.get("quant_method", "unknown")), f"{arguments.get('type', 'int')}{_bits(config)}"]
    if arguments.get("strategy"):
        parts.append(f"per {arguments['strategy']}")
    if arguments.get("group_size"):
        parts.append(f"of {arguments['group_size']}")
    return " ".join(parts)


def _num_parameters(tensor: TensorInfo, bits: int) -> int:
    if role_of(tensor.name) == "scales":
        return 0
    if tensor.dtype == "I32":  # packed codes
        return tensor.num_values * 32 // bits
    return tensor.num_values


def _sum(shares: list[Share]) -> Share:
    return Share(
        num_tensors=sum(share.num_tensors for share in shares),
        num_parameters=sum(share.num_parameters for share in shares),
        size_bytes=sum(share.size_bytes for share in shares),
    )


def _largest_first(groups: dict[str, list[Share]]) -> dict[str, Share]:
    summed = {name: _sum(shares) for name, shares in groups.items()}
    return dict(sorted(summed.items(), key=lambda item: (-item[1].size_bytes, item[0])))
