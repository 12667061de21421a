"""GPTQ: codes of a matrix chosen column by column, each rounding's error fed forward into the columns to come. torch.

With H = X X' of a layer's inputs X, the error that rounding a weight leaves after all later weights have made up for
it as well as they can is error**2 / U[j, j]**2, U the upper Cholesky factor of the inverse of H (Frantar and others,
GPTQ). All rows of a matrix are independent given H, so they go side by side; matrices lie transposed, (C, R), so that
a column is contiguous.
"""

import torch
from torch import Tensor

_BLOCK_COLUMNS = 64
_DAMPING = 0.01


def damped(hessian: Tensor) -> Tensor:
    """Return the Hessian with a hundredth of its mean diagonal added: inverse exists, unseen inputs stay put."""
    result = hessian.clone()
    diagonal = torch.diagonal(result)
    mean = diagonal.mean()
    diagonal += _DAMPING * (mean if mean > 0 else torch.ones(()))
    return result


def feed_forward(weights: Tensor, steps: Tensor, hessian: Tensor, *, low: int, high: int) -> Tensor:
    """Choose codes for the least error of the layer's output.

    Args:
        weights: float32 (C, R), transposed.
        steps: between two codes, the same shape.
        hessian: second moments of the inputs, (C, C), damped.
        low: smallest code.
        high: largest code.

    Returns:
        Codes as float32, (C, R).
    """
    left = weights.clone()
    codes = torch.empty_like(left)
    upper = _inverse_factor(hessian)
    num_columns = len(left)
    for first in range(0, num_columns, _BLOCK_COLUMNS):
        end = min(first + _BLOCK_COLUMNS, num_columns)
        errors = torch.empty(end - first, left.shape[1])
        for column in range(first, end):
            codes[column] = torch.clamp(torch.round(left[column] / steps[column]), low, high)
            error = (left[column] - codes[column] * steps[column]) / upper[column, column]
            left[column + 1 : end].addr_(upper[column, column + 1 : end], error, alpha=-1)
            errors[column - first] = error
        left[end:].addmm_(upper[first:end, end:].T, errors, alpha=-1)
    return codes


def _inverse_factor(hessian: Tensor) -> Tensor:
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return torch.linalg.cholesky(inverse, upper=True)
