"""Losses of CLIP-LIT: identity of image features, and margin ranking between rounds of the enhancer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rtlit.errors import UsageError


class Ranked(NamedTuple):
    """Two sets of pictures, of which the first should look more backlit than the second by a margin.

    Attributes:
        higher, lower: P(backlit) [B] of pictures of either set, 0 … 1; they are unpaired, which meets which is chance.
        margin: by how much `higher` should exceed `lower`.
    """

    higher: Tensor
    lower: Tensor
    margin: float


def identity_loss(enhanced: Sequence[Tensor], original: Sequence[Tensor], layer_weights: Sequence[float]) -> Tensor:
    """How far enhanced pictures are from their inputs: Σ over layers of weight × mean squared difference of features.

    A mean over the batch, where the released code has a sum over its batch of 8 beside a CLIP loss that is a mean: the
    caller multiplies by 8 to keep that balance at every batch size.

    Args:
        enhanced, original: features of the same pictures, one tensor [B, C, h, w] a layer.
        layer_weights: one a layer.
    """
    layers = zip(layer_weights, enhanced, original, strict=True)
    return torch.stack([weight * F.mse_loss(ours, theirs) for weight, ours, theirs in layers]).sum()


def ranking_loss(pairs: Sequence[Ranked]) -> Tensor:
    """Σ over pairs of the mean of max(0, lower − higher + margin) (`torch.nn.functional.margin_ranking_loss`)."""
    losses = [F.margin_ranking_loss(p.higher, p.lower, torch.ones_like(p.higher), p.margin) for p in pairs]
    return torch.stack(losses).sum()


def refinement_pairs(inputs: Tensor, references: Tensor, enhanced: Sequence[Tensor]) -> list[Ranked]:
    """What a round of prompt refinement asks for (CLIP-LIT eq. 5 to 7; margins from the released code).

    input > older enhanced > newer enhanced > reference in P(backlit). Before there are enhanced pictures only input
    and reference are compared; with one set of them there is no older one.

    Args:
        inputs, references: P(backlit) [B] of backlit and of well-lit photographs.
        enhanced: P(backlit) [B] of the last sets of enhanced pictures, older first; at most two.
    """
    match list(enhanced):
        case []:
            return [Ranked(inputs, references, 1.0)]
        case [only]:
            return [Ranked(inputs, references, 0.9), Ranked(inputs, only, 0.9), Ranked(only, references, 0.2)]
        case [older, newer]:
            return [
                Ranked(inputs, references, 0.9),
                Ranked(inputs, older, 0.9),
                Ranked(older, newer, 0.1),
                Ranked(newer, references, 0.1),
            ]
        case _:
            raise UsageError(f"{len(enhanced) = }: prompts are refined with the last two enhanced sets at most")
