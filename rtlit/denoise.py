"""Recursive, motion-adaptive temporal filter of a video's planes: the specification of every backend's `denoise`.

What a frame leaves to the next is its filtered planes, in 16-bit fixed point: codes · 2^(16 − depth). With the codes'
own precision, the filter would stand still at differences below half a code over the smallest weight.

    d = x − S,   q = max(|d| / (3σ), |Σ₅ₓ₅ d| / (2.5 · 5σ)) − 1, clamped to 0 … 1
    S ← S + (1 − KEPT · (1 − q)) · d

A pixel follows the new frame at once (q = 1) where it differs by 6σ, or where the sum of the differences around it
does, which tells a faint edge that moves from noise. On a static scene the noise's variance falls by
(1 − KEPT) / (1 + KEPT) (the variance of an exponential mean).

σ is a constant of the stream, not an estimate: behind a camera's gamma, which is nearly the square root that makes a
Poisson variable's variance constant (Anscombe 1948), sensor noise is about as strong in all tones, and no figure taken
from the frames tells fine texture that moves from noise (docs/decisions.md, "Denoise").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rtlit.frame import PixelFormat

BITS = 16  # of the filtered planes
KEPT = 5 / 6  # of the last frame, where nothing moves
RADIUS = 2
PIXEL_LIMIT, SUM_LIMIT = 3.0, 2.5  # in standard deviations of the noise; at twice the limit the new frame passes
MAX_NOISE = 4.0  # σ at amount 1, in 8-bit codes
_CHROMA_NOISE = 0.6  # of luma's σ: 0.53 measured at 4:2:0, 0.85 by the matrix at 4:4:4


def noise_sigmas(amount: float, pixel_format: PixelFormat) -> list[float]:
    """σ of each plane, in units of the filtered planes.

    Args:
        amount: `EnhanceSettings.denoise`, above 0 to 1.
    """
    luma = amount * MAX_NOISE * (1 << (BITS - 8))
    chroma = luma if pixel_format.is_rgb else luma * _CHROMA_NOISE
    return [luma] + [chroma] * (pixel_format.channels - 1)


def limits(sigma: float) -> tuple[float, float]:
    """What |d| and |Σ d| are compared with."""
    return PIXEL_LIMIT * sigma, SUM_LIMIT * (2 * RADIUS + 1) * sigma


def filter_planes(
    planes: Sequence[Tensor], last: Sequence[Tensor] | None, pixel_format: PixelFormat, amount: float
) -> list[Tensor]:
    """The next frame's filtered planes.

    Args:
        planes: codes [H, W] of the new frame.
        last: the filtered planes that the frame before left; None starts afresh.
        amount: as for `noise_sigmas`.

    Returns:
        Whole numbers in float32, 0 … 65535: codes · 2^(16 − depth).
    """
    fixed = [plane.float() * (1 << (BITS - pixel_format.depth)) for plane in planes]
    if last is None:
        return fixed
    sigmas = noise_sigmas(amount, pixel_format)
    return [_follow(plane, state.float(), sigma) for plane, state, sigma in zip(fixed, last, sigmas, strict=True)]


def _follow(plane: Tensor, last: Tensor, sigma: float) -> Tensor:
    difference = plane - last
    around = F.pad(difference[None, None], (RADIUS,) * 4, mode="replicate")
    total = F.avg_pool2d(around, 2 * RADIUS + 1, 1, divisor_override=1)[0, 0]
    pixel_limit, sum_limit = limits(sigma)
    moved = torch.maximum(difference.abs() / pixel_limit, total.abs() / sum_limit) - 1
    weight = 1 - KEPT * (1 - moved.clamp(0, 1))
    return (last + weight * difference + 0.5).floor()
