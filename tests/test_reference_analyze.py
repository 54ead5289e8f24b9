"""Thumbnail and histogram against exact integrals; smoothing over time by its behaviour."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtlit import reference
from rtlit.errors import UsageError
from rtlit.frame import Color, PixelFormat
from tests.frames import FORMATS, SIZES, color_for, random_grid, random_planes


def exact_area_mean(picture: NDArray[np.float64], rows: int, columns: int) -> NDArray[np.float64]:
    """Mean over equal cells of a picture [..., H, W] of flat square pixels, from its integral, which is
    piecewise linear: differences of the interpolated cumulative sum."""
    for axis, cells in ((-2, rows), (-1, columns)):
        lines = np.moveaxis(picture, axis, -1)
        length = lines.shape[-1]
        integral = np.concatenate([np.zeros((*lines.shape[:-1], 1)), lines.cumsum(-1)], -1).reshape(-1, length + 1)
        edges = np.arange(cells + 1) * length / cells
        means = np.diff([np.interp(edges, np.arange(length + 1), line) for line in integral]) * cells / length
        picture = np.moveaxis(means.reshape(*lines.shape[:-1], cells), -1, axis)
    return picture


@pytest.mark.parametrize("thumbnail", [(16, 24), (128, 128), (72, 128), (16, 16)], ids=str)
@pytest.mark.parametrize("size", [*SIZES, (211, 97), (16, 300)], ids=str)
def test_thumbnail_is_the_area_mean(size: tuple[int, int], thumbnail: tuple[int, int]) -> None:
    """Reduced and enlarged, whole and fractional, with chroma samples that reach past odd sizes."""
    for name in ("yuv420p", "yuv411p", "yuv410p", "yuv444p10le", "gray", "gbrp"):
        pixel_format = PixelFormat(name)
        color = color_for(pixel_format, Color())
        planes = random_planes(pixel_format, size, seed=1)
        full = reference.planes_to_rgb([plane.double() for plane in planes], pixel_format, color).numpy()
        ours, _ = reference.analyze(planes, pixel_format, color, thumbnail)
        assert np.abs(ours.numpy() - exact_area_mean(full, *thumbnail).clip(0, 1)).max() < 2e-6


@pytest.mark.parametrize("factor", [(2, 2), (3, 5), (7, 4)], ids=str)
def test_whole_factors_agree_with_pillow(factor: tuple[int, int]) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs the extra `train`")
    h, w = 16, 24
    planes = random_planes(PixelFormat("gray"), (h * factor[0], w * factor[1]), seed=2)
    box = image.fromarray(planes[0].numpy().astype(np.float32)).reduce((factor[1], factor[0]))
    ours, _ = reference.analyze(planes, PixelFormat("gray"), Color(full_range=True), (h, w))
    assert np.abs(ours[0].numpy() * 255 - np.asarray(box)).max() < 1e-4


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_thumbnail_keeps_the_mean(name: str, size: tuple[int, int]) -> None:
    pixel_format = PixelFormat(name)
    planes = [p.int() // 2 + (1 << pixel_format.depth) // 4 for p in random_planes(pixel_format, size, seed=3)]
    if not pixel_format.is_rgb:  # weak colours, so that nothing clamps
        planes[1:] = [plane // 4 + (1 << pixel_format.depth) * 3 // 8 for plane in planes[1:]]
    color = color_for(pixel_format, Color("bt601"))
    thumbnail, _ = reference.analyze(planes, pixel_format, color, (16, 32))
    mean = reference.planes_to_rgb(planes, pixel_format, color).mean((-2, -1))
    torch.testing.assert_close(thumbnail.mean((-2, -1)), mean, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("extent", "samples", "cells"), [(8.5, 9, 16), (2160, 2160, 72), (4.25, 5, 3), (16, 16, 128)])
def test_area_weights_cover_everything_once(extent: float, samples: int, cells: int) -> None:
    weights = reference.area_weights(extent, samples, cells)
    covered = weights.sum(0) * extent / cells  # by each sample; the last one may reach past the picture
    expected = torch.ones(samples, dtype=torch.float64)
    expected[-1] = extent - (samples - 1)
    torch.testing.assert_close(covered, expected)
    torch.testing.assert_close(weights.sum(1), torch.ones(cells, dtype=torch.float64))


@pytest.mark.parametrize("name", ["yuv420p10le", "gray16le", "gbrp"])
def test_histogram_is_a_distribution_of_the_thumbnail(name: str) -> None:
    pixel_format = PixelFormat(name)
    planes = random_planes(pixel_format, (64, 80), batch=2, seed=4)
    thumbnail, histogram = reference.analyze(planes, pixel_format, color_for(pixel_format, Color()), (40, 48))
    assert torch.equal(histogram, reference.tone_histogram(thumbnail)) and float(histogram.min()) >= 0
    torch.testing.assert_close(histogram.sum(-1), torch.ones(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(15, 64), (64, 15), (1, 1)], ids=str)
def test_too_small_a_frame_is_said(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=f"{size[1]}×{size[0]} is too small; each side must be at least 16"):
        reference.analyze(random_planes(PixelFormat("yuv420p"), size), PixelFormat("yuv420p"), Color(), (16, 16))


def test_thumbnails_of_any_batch() -> None:
    pixel_format = PixelFormat("yuv420p10le")
    planes = [p.reshape(2, 3, *p.shape[1:]) for p in random_planes(pixel_format, (37, 53), batch=6, seed=5)]
    thumbnail, histogram = reference.analyze(planes, pixel_format, Color(), (16, 24))
    assert thumbnail.shape == (2, 3, 3, 16, 24) and histogram.shape[:2] == (2, 3)
    one, its_histogram = reference.analyze([p[1, 2] for p in planes], pixel_format, Color(), (16, 24))
    torch.testing.assert_close(thumbnail[1, 2], one, atol=1e-6, rtol=0)
    torch.testing.assert_close(histogram[1, 2], its_histogram, atol=1e-6, rtol=0)


# Over time.


def scene(brightness: float, batch: tuple[int, ...] = (), seed: int = 0) -> Tensor:
    """Histogram of a noisy scene with tones about a brightness."""
    noise = torch.randn(*batch, 3, 72, 128, generator=torch.Generator().manual_seed(seed)) * 0.1
    return reference.tone_histogram((brightness + noise).clamp(0, 1))


@pytest.mark.parametrize("times", [[0.5, 0.5], [0.001, 0.999], [0.1, 0.2, 0.3, 0.4], [1 / 60] * 60], ids=str)
def test_smoothing_does_not_depend_on_how_time_is_cut(times: list[float]) -> None:
    """While the estimate stands still, frames in between change nothing: right for variable frame rate."""
    estimate, start, histogram = random_grid(1, seed=1)[0], random_grid(1, seed=2)[0], scene(0.3)
    expected = reference.smooth(estimate, histogram, start, histogram, sum(times), 0.5)
    grid = start
    for elapsed in times:
        grid = reference.smooth(estimate, histogram, grid, histogram, elapsed, 0.5)
    torch.testing.assert_close(grid, expected, atol=2e-5, rtol=0)
    behind = (start - estimate).clamp(-reference.MAX_LAG, reference.MAX_LAG)
    torch.testing.assert_close(grid, estimate + math.exp(-sum(times) / 0.5) * behind, atol=2e-5, rtol=0)


def test_jitter_is_averaged_and_what_moves_is_followed() -> None:
    """Of three cells the first jitters, the second moves up and the third far down."""
    histogram, start = scene(0.3), torch.zeros(1, 1, 1, 3)
    estimate = reference.MAX_LAG * torch.tensor([0.8, 1.2, -30.0]).reshape(1, 1, 1, 3)
    grid = reference.smooth(estimate, histogram, start, histogram, 0.5 * math.log(2), 0.5)
    torch.testing.assert_close(grid.flatten(), reference.MAX_LAG * torch.tensor([0.4, 0.7, -29.5]))


def test_no_time_no_change_and_much_time_all_change() -> None:
    estimate, histogram = random_grid(2, seed=1), scene(0.5, (2,))
    start = estimate + reference.MAX_LAG / 8 * random_grid(2, seed=2)
    torch.testing.assert_close(reference.smooth(estimate, histogram, start, histogram, 0.0, 0.5), start)
    torch.testing.assert_close(reference.smooth(estimate, histogram, start, histogram, 1e6, 0.5), estimate)


def test_tau_0_follows_at_once() -> None:
    estimate, start, histogram = random_grid(1, seed=1)[0], random_grid(1, seed=2)[0], scene(0.5)
    assert torch.equal(reference.smooth(estimate, histogram, start, histogram, 0.001, 0.0), estimate)


def test_a_cut_resets_its_own_item_alone() -> None:
    estimate, start = random_grid(2, seed=1), random_grid(2, seed=2)
    before = torch.stack([scene(0.2), scene(0.2)])
    after = torch.stack([scene(0.8), scene(0.2, seed=1)])
    assert reference.is_cut(after, before).tolist() == [True, False]
    grid = reference.smooth(estimate, after, start, before, 0.04, 0.5)
    assert torch.equal(grid[0], estimate[0])
    behind = (start[1] - estimate[1]).clamp(-reference.MAX_LAG, reference.MAX_LAG)
    torch.testing.assert_close(grid[1], estimate[1] + math.exp(-0.08) * behind)


@pytest.mark.parametrize("batch", [(), (1,), (5,), (2, 3)], ids=str)
def test_smoothing_takes_any_batch(batch: tuple[int, ...]) -> None:
    count = math.prod(batch)
    estimate, start = (random_grid(count, seed=seed).reshape(*batch, 3, 8, 9, 16) for seed in (1, 2))
    histogram, last = scene(0.6, batch), scene(0.6, batch, seed=1)
    grid = reference.smooth(estimate, histogram, start, last, 0.1, 0.5)
    assert grid.shape == estimate.shape
    behind = (start - estimate).clamp(-reference.MAX_LAG, reference.MAX_LAG)
    torch.testing.assert_close(grid, estimate + math.exp(-0.2) * behind, atol=1e-6, rtol=0)


@pytest.mark.parametrize("brightness", [0.1, 0.5, 0.9])
def test_noise_is_no_cut(brightness: float) -> None:
    assert not any(bool(reference.is_cut(scene(brightness, seed=n), scene(brightness, seed=n + 1))) for n in range(10))
