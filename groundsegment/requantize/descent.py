"""Codes moved one at a time, where a move gains more than its bits cost. torch.

The loss around the codes as they are is taken as  gradient . D + 1/2 D H D'  for a change D of a row of weights; the
gradient may be the layer's own (the error of its output) or the whole model's (of the divergence from the new model).
A move takes a code to the best of a few candidates: all the way down the slope, one step, or back to the base's code;
it pays if loss + price * bits falls, the bits those of its difference to the base's code. Block by block of columns
every row makes its best move, hears what it did to the slopes, makes the next, until none pays. One move at a time in
a row and rows independent: a pass never makes loss + price * bits larger, and where nothing pays nothing moves.

Matrices lie transposed, (C, R): a column's weights are contiguous, rows go side by side.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK_COLUMNS = 64
_MOVES_MAX = 24  # of a row in a block, in one pass; what is left waits for the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one matrix's codes are chosen by.

    Attributes:
        base: codes on board, (C, R), float32.
        steps: between two codes, (C, R).
        hessian: curvature along a row, (C, C), damped.
        price: of a bit in units of each row's loss, (R,).
        bits: of every difference to the base, from -reach to reach.
        places: bits more for any change, by column and row, (C, R).
        low: smallest code.
        high: largest code.
    """

    base: Tensor
    steps: Tensor
    hessian: Tensor
    price: Tensor
    bits: Tensor
    places: Tensor
    low: int
    high: int


def descend(codes: Tensor, gradient: Tensor, terms: Terms) -> int:
    """Make one pass over the columns.

    Args:
        codes: (C, R), float32; changed in place.
        gradient: of the loss by the weights, (C, R); kept up to date in place.
        terms: the rest.

    Returns:
        How many moves were made.
    """
    num_moves = 0
    for first in range(0, len(codes), _BLOCK_COLUMNS):
        block = slice(first, min(first + _BLOCK_COLUMNS, len(codes)))
        before = codes[block].clone()
        moves = _settle(codes[block], gradient[block], block, terms)
        if moves:
            num_moves += moves
            changes = (codes[block] - before) * terms.steps[block]
            gradient[: block.start].addmm_(terms.hessian[: block.start, block], changes)
            gradient[block.stop :].addmm_(terms.hessian[block.stop :, block], changes)
    return num_moves


def _settle(codes: Tensor, gradient: Tensor, block: slice, terms: Terms) -> int:
    """Move the codes of some columns, each row its best move first, until none pays; return how many moves."""
    hessian = terms.hessian[block, block]
    rows = torch.arange(codes.shape[1])
    steps, base, places, price = terms.steps[block], terms.base[block], terms.places[block], terms.price
    num_moves = 0
    for _ in range(_MOVES_MAX):
        if len(rows) == codes.shape[1]:
            move, gain = _best_moves(codes, gradient, steps, base, places, price, hessian, terms)
        else:
            here = codes[:, rows], gradient[:, rows], steps[:, rows], base[:, rows], places[:, rows]
            move, gain = _best_moves(here[0], here[1], here[2], here[3], here[4], price[rows], hessian, terms)
        most, column = gain.max(dim=0)
        pays = most > 0
        if not bool(pays.any()):
            break
        rows, column, move = rows[pays], column[pays], move[:, pays]
        taken = move.gather(0, column[None])[0]
        codes[column, rows] += taken
        gradient[:, rows] += hessian[:, column] * (taken * steps[column, rows])
        num_moves += len(rows)
    return num_moves


def _best_moves(
    codes: Tensor,
    gradient: Tensor,
    steps: Tensor,
    base: Tensor,
    places: Tensor,
    price: Tensor,
    hessian: Tensor,
    terms: Terms,
) -> tuple[Tensor, Tensor]:
    """Return every code's best move and what it gains."""
    reach = (len(terms.bits) - 1) // 2
    slope = gradient * steps
    curve = torch.diagonal(hessian)[:, None] * steps * steps
    there = codes - base

    def cost(difference: Tensor) -> Tensor:
        return price * (terms.bits[(difference + reach).long()] + torch.where(difference == 0, 0.0, places))

    now = cost(there)
    best, most = torch.zeros_like(codes), torch.zeros_like(codes)
    for wanted in (torch.round(-slope / curve), -torch.sign(slope), -there):
        move = torch.clamp(codes + wanted, terms.low, terms.high) - codes
        gain = now - slope * move - 0.5 * curve * move * move - cost(there + move)
        # A gain must be more than rounding could feign, or two codes could swap for ever.
        better = gain > torch.maximum(most, 1e-6 * (slope * move).abs())
        best, most = torch.where(better, move, best), torch.where(better, gain, most)
    return best, most
