"""Short, seeded trainings of a small causal model on one CPU core, each resumable from its last snapshot.

One sequence a step, AdamW, a short warm-up and then a constant rate. Products run in bfloat16 under
autocast; weights and optimizer stay float32. Floating point sums differ between machines and torch versions, so
models differ in their last bits from one machine to another: a seed repeats a run on the same machine.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

EVALUATION_TOKENS = 256
_WARM_UP_STEPS = 10
_SNAPSHOT_STEPS = 20
_CLIP_NORM = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast."""

    steps: int
    rate: float
    seed: int


def load_model(directory: Path) -> nn.Module:
    """Return a causal model in float32, without dropout."""
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model: nn.Module = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model.eval()
    return model


def encode(
    directory: Path, paragraphs: Sequence[str], *, num_sequences: int, length: int = EVALUATION_TOKENS
) -> Tensor:
    """Return int64 (N, length): paragraphs one after another, an end token between them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    wanted = num_sequences * length
    ids: list[int] = []
    for paragraph in paragraphs:
        ids += [*tokenizer(paragraph, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        if len(ids) >= wanted:
            return torch.tensor(ids[:wanted]).view(num_sequences, length)
    raise ValueError(f"the corpus has {len(ids)} tokens, {wanted} are wanted")


def logits_of(model: nn.Module, ids: Tensor) -> Tensor:
    """Return float32 logits (B, T, V)."""
    with torch.autocast("cpu", torch.bfloat16):
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.float()


def next_token_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Return the mean cross entropy of every next token."""
    logits = logits_of(model, ids)[:, :-1]
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))


def distillation_loss(teacher: nn.Module) -> Callable[[nn.Module, Tensor], Tensor]:
    """Return a loss: the mean divergence of a model's next tokens from the teacher's."""

    def loss(model: nn.Module, ids: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = functional.log_softmax(logits_of(teacher, ids), dim=-1)
        found = functional.log_softmax(logits_of(model, ids), dim=-1)
        return functional.kl_div(found, wanted, log_target=True, reduction="sum") / ids.numel()

    return loss


@torch.no_grad()
def perplexity(model: nn.Module, ids: Tensor) -> float:
    """Return exp of the mean loss over all sequences."""
    return float(np.exp(np.mean([next_token_loss(model, sequence).item() for sequence in ids.split(1)])))


def train(
    model: nn.Module,
    ids: Tensor,
    schedule: Schedule,
    *,
    loss_of: Callable[[nn.Module, Tensor], Tensor],
    snapshot: Path,
) -> None:
    """Train every parameter that wants a gradient, in place; goes on from `snapshot` where one is.

    Args:
        model: in evaluation mode; there is no dropout.
        ids: sequences, drawn in a seeded order.
        schedule: steps, rate, seed of the order.
        loss_of: what is made small, of the model and one sequence.
        snapshot: file of the last state, removed by the caller when its result is safe.
    """
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(named.values(), lr=schedule.rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    step = _resume(snapshot, named, optimizer)
    order = np.random.default_rng(schedule.seed).integers(0, len(ids), schedule.steps)
    began = time.monotonic()
    for index in order[step:]:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate * min(1.0, (step + 1) / _WARM_UP_STEPS)
        loss = loss_of(model, ids[int(index)][None])
        loss.backward()
        nn.utils.clip_grad_norm_(named.values(), _CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 10 == 0:
            print(
                f"  {snapshot.stem} {step}/{schedule.steps} {loss.item():.3f} {time.monotonic() - began:.0f} s",
                flush=True,
            )
        if step % _SNAPSHOT_STEPS == 0 and step < schedule.steps:
            _save(snapshot, step, named, optimizer)


class LowRank(nn.Module):
    """A linear layer with an adapter: x W^T + s * (x A^T) B^T."""

    def __init__(self, linear: nn.Linear, *, rank: int, alpha: int, generator: torch.Generator) -> None:
        super().__init__()
        self.linear = linear
        self.scale = alpha / rank
        bound = 1 / np.sqrt(linear.in_features)
        first = (torch.rand(rank, linear.in_features, generator=generator) * 2 - 1) * bound
        self.lora_A = nn.Parameter(first)
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Apply both."""
        added: Tensor = functional.linear(functional.linear(x, self.lora_A), self.lora_B)
        result: Tensor = self.linear(x) + self.scale * added
        return result


def attach_adapters(model: nn.Module, *, rank: int, alpha: int, seed: int) -> dict[str, LowRank]:
    """Freeze the model and give every linear layer of its blocks an adapter; returns them by module name."""
    model.requires_grad_(requires_grad=False)
    generator = torch.Generator().manual_seed(seed)
    linears = [(name, part) for name, part in model.named_modules() if name.endswith("_proj")]
    adapters = {}
    for name, linear in linears:
        assert isinstance(linear, nn.Linear)
        adapters[name] = LowRank(linear, rank=rank, alpha=alpha, generator=generator)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, adapters[name])
    return adapters


@torch.no_grad()
def merge_adapters(model: nn.Module, adapters: dict[str, LowRank]) -> None:
    """Add every adapter to its layer and put the plain layer back."""
    for name, adapter in adapters.items():
        adapter.linear.weight += adapter.scale * (adapter.lora_B @ adapter.lora_A)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, adapter.linear)


def save_adapters(directory: Path, adapters: dict[str, LowRank], *, rank: int, alpha: int) -> None:
    """Write adapters as PEFT does: adapter_config.json and adapter_model.safetensors (bf16)."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"base_model.model.{name}.{part}.weight": getattr(adapter, part).detach().to(torch.bfloat16).contiguous()
        for name, adapter in adapters.items()
        for part in ("lora_A", "lora_B")
    }
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({name.rpartition(".")[2] for name in adapters}),
    }
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def weights_of(model: nn.Module) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every tensor once, in float32; a tied head is its embedding."""
    for name, value in model.state_dict().items():
        if name != "lm_head.weight":
            yield name, value.detach().float().numpy()


def _resume(snapshot: Path, named: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    if not snapshot.exists():
        return 0
    state = torch.load(snapshot, weights_only=True)
    with torch.no_grad():
        for name, value in named.items():
            value.copy_(state["weights"][name])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _save(snapshot: Path, step: int, named: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    part = snapshot.with_suffix(".part")
    weights = {name: value.detach() for name, value in named.items()}
    torch.save({"step": step, "weights": weights, "optimizer": optimizer.state_dict()}, part)
    part.replace(snapshot)
