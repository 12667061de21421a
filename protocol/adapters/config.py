"""adapter_config.json as PEFT writes it: what of it decides the weights, and what is refused.

Only plain LoRA on linear layers is taken: y = W x + scale * B A x. What a tensor may not be seen from, a setting that
would change the arithmetic, is refused by name; so is every setting that is not known here, unless it is empty.
"""

import json
import math
from dataclasses import dataclass
from typing import Any, Self

from protocol.adapters.errors import AdapterError
from protocol.adapters.names import CONFIG_NAME

RANK_MAX = 256
CONFIG_SIZE_MAX = 256 * 1024
_ALPHA_RANGE = 1e-6, 1e6
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
# What these say is in the tensors, or was of use only while it was trained.
_WITHOUT_EFFECT = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}
_CHECKED = {"r", "lora_alpha", "use_rslora", "init_lora_weights", "bias"}
_WHY = {
    "use_dora": "DoRA also scales columns by a magnitude",
    "modules_to_save": "whole layers were trained beside it",
    "rank_pattern": "ranks differ between layers",
    "alpha_pattern": "scales differ between layers",
    "fan_in_fan_out": "its layers keep their weights transposed",
    "lora_bias": "it has biases",
    "trainable_token_indices": "tokens were trained beside it",
    "layer_replication": "it repeats layers of its base",
    "target_parameters": "it changes parameters that are no linear layers",
    "alora_invocation_tokens": "it is active for a part of a prompt only",
}
_MERGE_YOURSELF = "merge it into its base yourself (peft: model.merge_and_unload()), save that, and stage the result"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """What decides the weights.

    Attributes:
        rank: r, at most RANK_MAX.
        scale: what B A is multiplied with: alpha / r, or alpha / sqrt(r); one rounding each in IEEE 754 double.
    """

    rank: int
    scale: float

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse and check a configuration.

        Raises:
            AdapterError: it is not plain LoRA, or not what PEFT writes.
        """
        if len(data) > CONFIG_SIZE_MAX:
            raise AdapterError(f"{CONFIG_NAME}: {len(data)} bytes, at most {CONFIG_SIZE_MAX} are allowed")
        try:
            settings = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise AdapterError(f"{CONFIG_NAME}: not usable JSON ({error})", hint="save the adapter again") from None
        if not isinstance(settings, dict):
            raise AdapterError(f"{CONFIG_NAME}: not a JSON object", hint="save the adapter again")
        _check_kind(settings)
        rank: Any = settings.get("r")
        alpha: Any = settings.get("lora_alpha")
        if type(rank) is not int or not 1 <= rank <= RANK_MAX:
            raise AdapterError(f"{CONFIG_NAME}: r is {_short(rank)}, not in 1..{RANK_MAX}", hint=_MERGE_YOURSELF)
        lowest, highest = _ALPHA_RANGE
        is_number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
        if not is_number or not lowest <= abs(alpha) <= highest:
            raise AdapterError(f"{CONFIG_NAME}: lora_alpha is {_short(alpha)}, no number in use", hint=_MERGE_YOURSELF)
        is_stable = settings.get("use_rslora", False)
        if not isinstance(is_stable, bool):
            raise AdapterError(f"{CONFIG_NAME}: use_rslora is {_short(is_stable)}, neither true nor false")
        return cls(rank=rank, scale=float(alpha) / (math.sqrt(rank) if is_stable else rank))


def _check_kind(settings: dict[str, Any]) -> None:
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{CONFIG_NAME}: peft_type is {_short(kind)}, only LORA flies", hint=_MERGE_YOURSELF)
    task = settings.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        raise AdapterError(
            f"{CONFIG_NAME}: task_type is {_short(task)}, only CAUSAL_LM is served", hint=_MERGE_YOURSELF
        )
    if settings.get("bias", "none") != "none":
        raise AdapterError(f"{CONFIG_NAME}: bias is {_short(settings['bias'])}: it has biases", hint=_MERGE_YOURSELF)
    start = settings.get("init_lora_weights")
    if not isinstance(start, str | bool | None) or start not in _PLAIN_STARTS:
        raise AdapterError(
            f"{CONFIG_NAME}: init_lora_weights is {_short(start)}, which changed its base", hint=_MERGE_YOURSELF
        )
    for name, value in settings.items():
        if name not in _WITHOUT_EFFECT and name not in _CHECKED and value:
            why = _WHY.get(name, "a setting that is not known here")
            raise AdapterError(f"{CONFIG_NAME}: {_short(name)} is {_short(value)}: {why}", hint=_MERGE_YOURSELF)


def _short(value: object) -> str:
    return repr(value)[:60]
