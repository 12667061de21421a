"""The new model in torch, with any weights in its matrices: what goes in, what comes out, how the loss leans.

transformers builds the model from the directory's config; its matrices are those that `skyload model quantize`
rounds. The only module here that knows transformers. Everything runs on the CPU, in bfloat16 where the processor
multiplies that fast, with float32 weights, sums and losses.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from groundsegment.errors import InputError
from groundsegment.models.tensor_info import TensorInfo

Sequences = NDArray[np.int64]
OnTokens = Callable[[int], None]

_BATCH_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What calibration text says about a model's matrices, per token.

    Attributes:
        inputs: second moments of the inputs, (C, C); matrices that read the same input share one tensor.
        sensitivity: second moments of the gradients at the outputs, (R,): half of sensitivity times the squared
            error of an output is the divergence, in nats a token, that it brings about.
        others: the same for every other parameter's values, smoothed along rows and columns.
    """

    inputs: Mapping[str, Tensor]
    sensitivity: Mapping[str, Tensor]
    others: Mapping[str, Tensor]

    def as_arrays(self) -> dict[str, NDArray[Any]]:
        """Return it as arrays by name, shared ones once."""
        owners: dict[int, str] = {}
        arrays = {}
        for name, value in self.inputs.items():
            owner = owners.setdefault(id(value), name)
            arrays[f"inputs/{name}"] = value.numpy() if owner == name else np.array(owner)
        arrays |= {f"sensitivity/{name}": value.numpy() for name, value in self.sensitivity.items()}
        return arrays | {f"others/{name}": value.numpy() for name, value in self.others.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Statistics":
        """Undo `as_arrays`."""
        parts: dict[str, dict[str, Tensor]] = {"inputs": {}, "sensitivity": {}, "others": {}}
        for key, value in arrays.items():
            part, _, name = key.partition("/")
            parts[part][name] = parts[part][str(value)] if value.dtype.kind == "U" else torch.from_numpy(value)
        return cls(**parts)


class LanguageModel:
    """A causal model of a Hugging Face directory.

    Args:
        directory: config and float weights.
        matrices: what will be quantized; each must be a linear layer's weight.
    """

    def __init__(self, directory: Path, matrices: tuple[TensorInfo, ...]) -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        try:
            self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                directory, dtype=torch.float32, local_files_only=True
            )
        except (ValueError, KeyError, RuntimeError) as error:
            hint = "transformers must know the architecture; see if `skyload model inspect` reads it"
            raise InputError(f"{directory}: transformers cannot load it ({error})", hint=hint) from error
        self._model.eval()
        self.parameters: dict[str, Tensor] = dict(self._model.named_parameters())
        for parameter in self.parameters.values():
            parameter.requires_grad_(False)
        self._layers = {matrix.name: self._layer(directory, matrix) for matrix in matrices}
        self._is_bf16_fast = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

    def weight(self, name: str) -> Tensor:
        """Return a matrix's weight, (R, C); writing to it changes the model."""
        return self.parameters[name].data

    def statistics(self, sequences: Sequences, *, seed: int = 0, on_tokens: OnTokens | None = None) -> Statistics:
        """See what the model's matrices read and how much their outputs matter.

        The gradients are those of the log-probability of tokens that the model draws itself, so their second
        moments are the Fisher information of its outputs, and say how the divergence grows with an error.
        """
        inputs: dict[str, Tensor] = {}
        sensitivity: dict[str, Tensor] = {}
        squares: dict[str, Tensor] = {}
        others = {name: value for name, value in self.parameters.items() if name not in self._layers}
        generator = torch.Generator().manual_seed(seed)
        with self._watching(inputs, sensitivity), _leaning(others.values()):
            for batch in _batches(sequences):
                with self._precision():
                    logits = self._model(batch, use_cache=False).logits.float()
                flat = logits.view(-1, logits.shape[-1])
                drawn = torch.multinomial(flat.detach().softmax(-1), 1, generator=generator).view(-1)
                functional.cross_entropy(flat, drawn, reduction="sum").backward()
                for name, parameter in others.items():
                    if parameter.grad is not None:
                        _add(squares, name, parameter.grad.square())
                        parameter.grad = None
                if on_tokens:
                    on_tokens(batch.numel())
        totals = {id(value): value for value in [*inputs.values(), *sensitivity.values(), *squares.values()]}
        for total in totals.values():
            total.div_(sequences.size)
        smooth = {name: _smoothed(value) for name, value in squares.items()}
        return Statistics(inputs=inputs, sensitivity=sensitivity, others=smooth)

    def log_probabilities(self, sequences: Sequences, path: Path) -> NDArray[np.float16]:
        """Write what the model thinks of every next token into a file, (tokens, vocabulary), and map it."""
        vocabulary = self._model.get_output_embeddings().weight.shape[0]
        result = np.memmap(path, np.float16, "w+", shape=(sequences.size, vocabulary))
        done = 0
        for batch in _batches(sequences):
            with torch.no_grad():
                values = self._log_probabilities(batch)
            result[done : done + batch.numel()] = values.numpy()
            done += batch.numel()
        return result

    def evaluate(self, sequences: Sequences, teacher: NDArray[np.float16]) -> tuple[float, float]:
        """Return the perplexity, and the divergence from the teacher in nats a token."""
        surprise, divergence, done, predicted = 0.0, 0.0, 0, 0
        for batch in _batches(sequences):
            with torch.no_grad():
                values = self._log_probabilities(batch)
                divergence += float(_divergence(values, _rows(teacher, done, batch.numel())))
                ahead = values.view(*batch.shape, -1)[:, :-1].gather(-1, batch[:, 1:, None])
            surprise -= float(ahead.sum())
            predicted += ahead.numel()
            done += batch.numel()
        return math.exp(surprise / predicted), divergence / done

    def lean(
        self,
        names: list[str],
        sequences: Sequences,
        teacher: NDArray[np.float16],
        *,
        on_tokens: OnTokens | None = None,
    ) -> tuple[dict[str, Tensor], float]:
        """Return the gradient of the divergence from the teacher by parameters of these names, and its value."""
        wanted = {name: self.parameters[name] for name in names}
        done, divergence = 0, 0.0
        with _leaning(wanted.values()):
            for batch in _batches(sequences):
                loss = _divergence(self._log_probabilities(batch), _rows(teacher, done, batch.numel())) / sequences.size
                loss.backward()
                divergence += float(loss.detach())
                done += batch.numel()
                if on_tokens:
                    on_tokens(batch.numel())
            gradients = {name: parameter.grad for name, parameter in wanted.items() if parameter.grad is not None}
        return gradients, divergence

    def _layer(self, directory: Path, matrix: TensorInfo) -> torch.nn.Linear:
        parameter = self.parameters.get(matrix.name)
        owner = self._model.get_submodule(matrix.name.rpartition(".")[0]) if parameter is not None else None
        if not isinstance(owner, torch.nn.Linear) or tuple(owner.weight.shape) != matrix.shape:
            hint = "models of plain linear layers are known here; for this one use skyload model quantize"
            raise InputError(f"{directory}: {matrix.name} is no linear layer in transformers", hint=hint)
        return owner

    def _precision(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self._is_bf16_fast)

    def _log_probabilities(self, batch: Tensor) -> Tensor:
        with self._precision():
            logits = self._model(batch, use_cache=False).logits.float()
        return functional.log_softmax(logits, dim=-1).view(-1, logits.shape[-1])

    @contextmanager
    def _watching(self, inputs: dict[str, Tensor], sensitivity: dict[str, Tensor]) -> Iterator[None]:
        """Sum moments while the model runs; layers that read one tensor one after the other share their sum."""
        last: list[Any] = [None, ""]

        def watch(name: str) -> Callable[..., None]:
            def seen(_module: object, arguments: tuple[Tensor, ...], output: Tensor) -> None:
                if arguments[0] is last[0]:
                    inputs[name] = inputs[last[1]]
                else:
                    last[:] = arguments[0], name
                    _add(inputs, name, _moments(arguments[0]))
                output.register_hook(lambda gradient: _add(sensitivity, name, _squares(gradient)))

            return seen

        handles = [layer.register_forward_hook(watch(name)) for name, layer in self._layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def _leaning(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Let gradients by these parameters be found."""
    wanted = list(parameters)
    for parameter in wanted:
        parameter.requires_grad_(True)
        parameter.grad = None
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(False)
            parameter.grad = None


def _batches(sequences: Sequences) -> Iterator[Tensor]:
    step = max(1, _BATCH_TOKENS // sequences.shape[1])
    for first in range(0, len(sequences), step):
        yield torch.from_numpy(sequences[first : first + step])


def _divergence(values: Tensor, teacher: Tensor) -> Tensor:
    return (teacher.exp() * (teacher - values)).sum()


def _rows(teacher: NDArray[np.float16], first: int, count: int) -> Tensor:
    return torch.from_numpy(np.asarray(teacher[first : first + count], np.float32))


def _moments(values: Tensor) -> Tensor:
    flat = values.detach().float().reshape(-1, values.shape[-1])
    with torch.autocast("cpu", enabled=False):  # sums of squares in bfloat16 would be worth nothing
        return flat.T @ flat


def _squares(gradient: Tensor) -> Tensor:
    return gradient.detach().float().reshape(-1, gradient.shape[-1]).square().sum(0)


def _smoothed(squares: Tensor) -> Tensor:
    """Replace a matrix by the product of its row and column means: single entries are seen too seldom."""
    if squares.dim() < 2:
        return squares
    mean = squares.mean().clamp_min(1e-30)
    return squares.mean(1, keepdim=True) * squares.mean(0, keepdim=True) / mean


def _add(totals: dict[str, Tensor], name: str, value: Tensor) -> None:
    if name in totals:
        totals[name] += value
    else:
        totals[name] = value
