"""How steady a video is: warping error along the motion, brightness differences, and the jitter of the gain.

A clip is uint8 R'G'B' [T, H, W, 3]; errors are of values in 0 … 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.registration import optical_flow_tvl1
from skimage.transform import warp

from rtlit.training.metrics import luma

Clip = NDArray[np.uint8]  # [T, H, W, 3]
Floats = NDArray[np.float32]

_BLOCKS = (9, 16)  # of a clip's height and width, turned with it


@dataclass(frozen=True)
class Motion:
    """Where each pixel of frame `index` is found in the next.

    Attributes:
        flow: [2, H, W], rows and columns, in pixels.
        visible: [H, W] bool, False where occluded or at a motion boundary.
    """

    index: int
    flow: Floats
    visible: NDArray[np.bool_]


def motions(clip: Clip, indices: Sequence[int]) -> list[Motion]:
    """Motion from each of the frames `indices` to the next: TV-L1 optical flow of luma (Zach et al. 2007)."""
    return [motion_between(luma(clip[index]), luma(clip[index + 1]), index) for index in indices]


def motion_between(first: Floats, second: Floats, index: int = 0) -> Motion:
    """Flow from `first` to `second`, both [H, W], with what is visible in both (Ruder et al. 2016, §4.2).

    Flows w there and ŵ back agree where |w + ŵ(x + w)|² ≤ 0.01·(|w|² + |ŵ(x + w)|²) + 0.5; a motion boundary is where
    |∇w|² > 0.01·|w|² + 0.002; and what leaves the picture isn't visible.
    """
    there, back = _flow(first, second), _flow(second, first)
    returned = np.stack([move(each, there) for each in back])
    apart = np.square(there + returned).sum(0)
    lengths = np.square(there).sum(0), np.square(returned).sum(0)
    steps = sum(np.square(np.gradient(each, axis=axis)) for each in there for axis in (0, 1))
    boundary = steps > 0.01 * lengths[0] + 0.002
    rows, columns = _targets(there)
    inside = (rows >= 0) & (rows <= first.shape[0] - 1) & (columns >= 0) & (columns <= first.shape[1] - 1)
    visible = inside & (apart <= 0.01 * (lengths[0] + lengths[1]) + 0.5) & ~boundary
    return Motion(index, there, visible)


def move(picture: Floats, flow: Floats) -> Floats:
    """The picture [H, W] or [H, W, C] fetched (bilinearly) from where the flow [2, H, W] points."""
    at = np.stack(_targets(flow))
    layers = picture[..., None] if picture.ndim == 2 else picture
    moved = [warp(layers[..., i], at, order=1, mode="edge", preserve_range=True) for i in range(layers.shape[-1])]
    return np.stack(moved, -1).reshape(picture.shape).astype(np.float32)


def warping_error(clip: Clip, along: Sequence[Motion]) -> float:
    """E_warp of Lai et al. (2018): the mean over pairs of frames of Σ M·‖V_t − V_{t+1}(x + w)‖² / (3·Σ M).

    V is R'G'B' in 0 … 1, w the flow and M what is visible; pairs in which nothing is are left out (NaN if all are).
    Grows with the square of a clip's contrast: what is lifted has more of it than the input.
    """
    errors = []
    for motion in along:
        now, then = (clip[motion.index + i].astype(np.float32) / 255 for i in (0, 1))
        if motion.visible.any():
            errors.append(np.square(now - move(then, motion.flow))[motion.visible].mean(dtype=np.float64))
    return float(np.mean(errors)) if errors else float("nan")


def mabd(clip: Clip) -> NDArray[np.float64]:
    """Mean absolute brightness differences [T − 1] (Jiang & Zheng 2019): mean over pixels of |luma_{t+1} − luma_t|."""
    tones = luma(clip[0])
    differences = []
    for frame in clip[1:]:
        last, tones = tones, luma(frame)
        differences.append(np.abs(tones - last).mean(dtype=np.float64))
    return np.array(differences)


def block_gains(before: Clip, after: Clip) -> NDArray[np.float64]:
    """By how much blocks were lifted: t = logit(mean luma after) − logit(mean luma before), [T, rows, columns].

    9×16 blocks. The curve adds t to the logit of a tone, so noise, which is in both, cancels to the first order.
    """
    return np.stack([_logit(_block_means(b)) - _logit(_block_means(a)) for a, b in zip(before, after, strict=True)])


def jitter(gains: NDArray[np.float64]) -> float:
    """Mean of |t_{k+1} − t_k| over blocks and frames of `block_gains`; of a static scene, all of it is flicker."""
    return float(np.abs(np.diff(gains, axis=0)).mean())


def _flow(first: Floats, second: Floats) -> Floats:
    flow: Floats = optical_flow_tvl1(first, second, num_warp=5, num_iter=10, dtype=np.float32)
    return flow


def _targets(flow: Floats) -> tuple[Floats, Floats]:
    rows, columns = np.indices(flow.shape[1:], dtype=np.float32)
    return rows + flow[0], columns + flow[1]


def _block_means(frame: Clip) -> NDArray[np.float64]:
    tones = luma(frame).astype(np.float64)
    rows, columns = _BLOCKS if tones.shape[1] >= tones.shape[0] else _BLOCKS[::-1]
    starts = [np.arange(count) * length // count for count, length in zip((rows, columns), tones.shape, strict=True)]
    sums: NDArray[np.float64] = np.add.reduceat(np.add.reduceat(tones, starts[0], 0), starts[1], 1)
    areas = np.outer(*(np.diff(np.append(at, length)) for at, length in zip(starts, tones.shape, strict=True)))
    return sums / areas


def _logit(tones: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = tones.clip(1 / 255, 254 / 255)
    return np.asarray(np.log(inside / (1 - inside)))
