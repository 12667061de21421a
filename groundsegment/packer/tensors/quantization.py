"""What a release's config says about its quantization: a hint where names and shapes leave something open.

Every quantizer has its own spelling; whatever is odd, missing or not JSON is no hint, never an error.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CONFIG_NAMES = ("config.json", "quantize_config.json", "quant_config.json")
_CONFIG_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How weights were quantized, as far as the config says so.

    Attributes:
        method: "gptq", "awq", "compressed-tensors", "torchao" ...; "" if it does not say.
        num_bits: of a code; 0 if it does not say, or says several.
        group_size: codes that share a scale; 0 if it does not say, or a whole row or column does.
        is_reordered: whether groups hold inputs out of order (GPTQ's desc_act), so that neighbours share no scale.
    """

    method: str = ""
    num_bits: int = 0
    group_size: int = 0
    is_reordered: bool = False


UNKNOWN = Quantization()


def quantization_of(paths: Mapping[str, Path]) -> Quantization:
    """Return what the configs among a release's files say.

    Args:
        paths: of the release's files, by name.
    """
    for name in _CONFIG_NAMES:
        if name not in paths:
            continue
        config = _load(paths[name])
        settings = config.get("quantization_config") if name == "config.json" else config
        if isinstance(settings, dict):
            return parse(settings)
    return UNKNOWN


def parse(settings: dict[str, Any]) -> Quantization:
    """Return what a quantization_config says."""
    groups = list(_weight_settings(settings))
    method = settings.get("quant_method")
    return Quantization(
        method=method if isinstance(method, str) else "",
        num_bits=_agreed(entry.get("num_bits", entry.get("bits", entry.get("w_bit"))) for entry in groups),
        group_size=_agreed(entry.get("group_size", entry.get("q_group_size")) for entry in groups),
        is_reordered=settings.get("desc_act") is True,
    )


def _weight_settings(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    groups = settings.get("config_groups")
    if not isinstance(groups, dict):
        yield settings
        return
    for group in groups.values():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict):
            yield weights


def _agreed(values: Iterator[Any]) -> int:
    found = {value if type(value) is int and 0 < value < 1 << 20 else 0 for value in values}
    return found.pop() if len(found) == 1 else 0


def _load(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _CONFIG_BYTES_MAX:
        return {}
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}
