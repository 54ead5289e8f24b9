"""Recursive, motion-adaptive temporal filter of a video's planes: the specification of every backend's `denoise`.

What a frame leaves to the next is its filtered planes, in 16-bit fixed point: codes · 2^(16 − depth). With the codes'
own precision, the filter would stand still at differences below half a code over the smallest weight.

    d = x − S,   q = max(|d| / (3σ), |Σ d| / (2 · 5σ), Σ|d| / (1.2 · 25σ)) − 1, clamped to 0 … 1
    S ← S + (1 − KEPT · (1 − q)) · d

The sums are taken over 5×5 pixels. A pixel follows the new frame at once (q = 1) where it differs by 6σ itself; where
the sum of the differences does by 4 of its own σ, which a faint edge that moves makes; and where the differences' mean
size is 2.4σ, as a texture that moves makes them: noise's is 0.83σ. On a static scene the noise's variance falls by
(1 − KEPT) / (1 + KEPT), that of an exponential mean.

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
from rtlit.reference import codes_of

BITS = 16  # of the filtered planes
KEPT = 5 / 6  # of the last frame, where nothing moves
RADIUS = 2
PIXEL_LIMIT, SUM_LIMIT, SIZE_LIMIT = 3.0, 2.0, 1.2  # in σ; at twice the limit the new frame passes
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


def limits(sigma: float) -> tuple[float, float, float]:
    """What |d|, |Σ d| and Σ|d| are divided by."""
    side = 2 * RADIUS + 1
    return PIXEL_LIMIT * sigma, SUM_LIMIT * side * sigma, SIZE_LIMIT * side**2 * sigma


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
    fixed = [plane.float() * (1 << (BITS - pixel_format.depth)) for plane in codes_of(planes, pixel_format)]
    if last is None:
        return fixed
    sigmas = noise_sigmas(amount, pixel_format)
    return [_follow(plane, state.float(), sigma) for plane, state, sigma in zip(fixed, last, sigmas, strict=True)]


def _follow(plane: Tensor, last: Tensor, sigma: float) -> Tensor:
    difference = plane - last
    evidence = (difference, _sum_around(difference), _sum_around(difference.abs()))
    moved = torch.stack([x.abs() / limit for x, limit in zip(evidence, limits(sigma), strict=True)]).amax(0) - 1
    weight = 1 - KEPT * (1 - moved.clamp(0, 1))
    return (last + weight * difference + 0.5).floor()


def _sum_around(plane: Tensor) -> Tensor:
    """Sums over 5×5, the outermost pixels repeated; exact, as whole numbers below 2²⁴."""
    around = F.pad(plane[None, None], (RADIUS,) * 4, mode="replicate")
    return F.avg_pool2d(around, 2 * RADIUS + 1, 1, divisor_override=1)[0, 0]
