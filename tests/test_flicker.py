"""Flicker metrics against what is known by hand: shifts, steps, lifts, and things that pass."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("skimage", reason="needs the extra `train`")

from numpy.typing import NDArray
from skimage.filters import gaussian

from rtlit.training.flicker import Clip, Motion, block_gains, jitter, mabd, motions, move, warping_error


def flat(*codes: int, size: tuple[int, int] = (18, 32)) -> Clip:
    """A clip of one code a frame."""
    return np.stack([np.full((*size, 3), code, np.uint8) for code in codes])


def texture(height: int = 90, width: int = 120, seed: int = 0) -> NDArray[np.float64]:
    """Smooth random grey [height, width] in 0 … 1."""
    field = gaussian(np.random.default_rng(seed).standard_normal((height, width)), 3)
    return np.asarray((field - field.min()) / (field.max() - field.min()))


def grey(*frames: NDArray[np.float64]) -> Clip:
    return np.stack([np.repeat((255 * frame).round()[..., None], 3, -1).astype(np.uint8) for frame in frames])


def shifted(rows: int, columns: int) -> Clip:
    """Two views of one texture; what is at (y, x) in the first is at (y + rows, x + columns) in the second."""
    whole = texture(110, 140)
    return grey(whole[10:100, 10:130], whole[10 - rows : 100 - rows, 10 - columns : 130 - columns])


def constant(rows: float, columns: float, size: tuple[int, int]) -> NDArray[np.float32]:
    return np.broadcast_to(np.array([rows, columns], np.float32)[:, None, None], (2, *size)).copy()


def test_move_fetches_from_where_the_flow_points() -> None:
    picture = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(move(picture, constant(1, 1, (3, 4)))[:2, :3], picture[1:, 1:])
    assert np.allclose(move(picture, constant(0, 0.5, (3, 4)))[:, :3], picture[:, :3] + 0.5)
    colours = np.stack([picture, 2 * picture, 3 * picture], -1)
    assert np.array_equal(move(colours, constant(0, 1, (3, 4)))[:, :3], colours[:, 1:])


def test_warping_error_along_a_given_flow_is_the_squared_step() -> None:
    clip = flat(100, 151, 100)
    everything = np.ones(clip.shape[1:3], bool)
    along = [Motion(i, constant(0, 0, clip.shape[1:3]), everything) for i in (0, 1)]
    assert warping_error(clip, along) == pytest.approx((51 / 255) ** 2)


def test_warping_error_leaves_out_what_is_not_visible() -> None:
    clip = flat(100, 100)
    clip[1, :, 16:] = 255
    left = np.zeros(clip.shape[1:3], bool)
    left[:, :16] = True
    still = constant(0, 0, clip.shape[1:3])
    assert warping_error(clip, [Motion(0, still, left)]) == 0
    assert warping_error(clip, [Motion(0, still, ~left)]) == pytest.approx((155 / 255) ** 2)
    assert math.isnan(warping_error(clip, [Motion(0, still, left & ~left)]))


def test_motion_of_a_shift_is_the_shift_and_leaves_no_error() -> None:
    clip = shifted(2, -3)
    (motion,) = motions(clip, [0])
    inner = motion.flow[:, 15:-15, 15:-15]
    assert np.abs(inner - constant(2, -3, inner.shape[1:])).mean() < 0.1
    assert motion.visible[15:-15, 15:-15].mean() > 0.99
    ignored = Motion(0, constant(0, 0, clip.shape[1:3]), motion.visible)
    assert warping_error(clip, [motion]) < 2e-5 < 1e-2 * warping_error(clip, [ignored])


def test_flicker_on_a_shift_is_all_that_the_warping_error_sees() -> None:
    clip = shifted(2, -3)
    flickering = np.stack([clip[0] // 2, clip[1] // 2 + 20])
    assert warping_error(flickering, motions(clip, [0])) == pytest.approx((20 / 255) ** 2, rel=0.05)


def test_what_leaves_the_picture_is_not_visible() -> None:
    (motion,) = motions(shifted(0, 6), [0])
    assert not motion.visible[:, -5:].any() and motion.visible[20:-20, 20:-20].mean() > 0.99


def test_what_is_covered_is_not_visible() -> None:
    behind, square = texture(seed=1), texture(seed=2)[:30, :30]
    frames = [behind.copy(), behind.copy()]
    frames[0][30:60, 40:70] = square
    frames[1][30:60, 46:76] = square
    (motion,) = motions(grey(*frames), [0])
    assert motion.visible[34:56, 71:75].mean() < 0.2, "the background that the square now covers"
    assert motion.visible[:20].mean() > 0.95


def test_mabd_of_a_flicker_is_its_amplitude() -> None:
    assert mabd(flat(100, 151, 100, 49)) == pytest.approx([0.2, 0.2, 0.2])
    assert mabd(flat(7, 7)) == 0


def test_mabd_takes_the_mean_of_absolute_differences() -> None:
    clip = flat(100, 100)
    clip[1, :, :16], clip[1, :, 16:] = 151, 49
    assert mabd(clip) == pytest.approx([0.2])


def lifted(clip: Clip, t: float) -> Clip:
    x = clip / 255
    return np.asarray((255 * x * math.exp(t) / (1 + x * (math.exp(t) - 1))).round().astype(np.uint8))


@pytest.mark.parametrize("size", [(18, 32), (64, 36), (37, 61)])
def test_block_gains_are_the_lift(size: tuple[int, int]) -> None:
    clip = flat(40, 90, size=size)
    gains = block_gains(clip, lifted(clip, 0.8))
    assert gains.shape == ((2, 9, 16) if size[1] > size[0] else (2, 16, 9))
    assert gains == pytest.approx(0.8, abs=0.02)


def test_noise_is_no_gain() -> None:
    """In the lift it all but cancels; set against a picture without noise, it doesn't."""
    noisy = np.random.default_rng(0).normal(80, 10, (4, 90, 160, 3)).round().clip(0, 255).astype(np.uint8)
    steady = lifted(noisy, 1.0)
    assert jitter(block_gains(noisy, steady)) < 0.1 * jitter(block_gains(np.full_like(noisy, 80), steady))


def test_jitter_is_the_mean_change_of_the_lift() -> None:
    clip = flat(60, 60, 60)
    after = np.concatenate([lifted(clip[:1], 0.5), lifted(clip[:1], 0.8), lifted(clip[:1], 0.5)])
    assert jitter(block_gains(clip, after)) == pytest.approx(0.3, abs=0.02)
