"""The specification against facts that it does not share: the logistic equation, naive loops, exact integrals.

Colour conversion is checked against swscale in test_color.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray
from torch import Tensor

from rtlit import reference
from rtlit.errors import UsageError
from rtlit.frame import Color, PixelFormat
from tests.frames import COLORS, FORMATS, SIZES, color_for, random_grid, random_planes

# Busy machines miss deadlines; the same examples every time, and nothing left in the folder.
settings.register_profile("rtlit", deadline=None, derandomize=True, database=None)
settings.load_profile("rtlit")

grids = pytest.mark.parametrize("grid", [(3, 8, 9, 16), (1, 8, 16, 16), (3, 2, 1, 1), (3, 5, 3, 2)], ids=str)
formats = pytest.mark.parametrize("name", FORMATS)
sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[1]}x{size[0]}")
times = st.floats(-4, 4)
tones = st.floats(0, 1)


def lift64(x: float, t: float) -> float:
    return float(reference.lift(torch.tensor(x, dtype=torch.float64), torch.tensor(t, dtype=torch.float64).exp()))


# The curve.


@pytest.mark.parametrize("t", [-4.0, -1.0, 0.3, 2.0, 8.0])
def test_curve_solves_the_logistic_equation(t: float) -> None:
    integrate = pytest.importorskip("scipy.integrate", reason="needs the extra `dev`")
    x = np.linspace(0, 1, 101)
    flow = integrate.solve_ivp(lambda _, y: y * (1 - y), (0, t), x, rtol=1e-10, atol=1e-12).y[:, -1]
    ours = reference.lift(torch.from_numpy(x), torch.tensor(t, dtype=torch.float64).exp())
    assert np.abs(ours.numpy() - flow).max() < 1e-8


@pytest.mark.parametrize("t", [-2.0, 1.5])
def test_curve_is_the_limit_of_zero_dce(t: float) -> None:
    """x ← x + (t/n)·x(1 − x), n times, comes twice as close when n doubles (Euler's method is of first order)."""
    x = torch.linspace(0, 1, 65, dtype=torch.float64)
    errors = []
    for steps in (64, 128, 256):
        y = x
        for _ in range(steps):
            y = y + t / steps * y * (1 - y)
        errors.append(float((y - reference.lift(x, torch.tensor(t).double().exp())).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.05)
    assert errors[2] < 5e-3


@given(tones, times, times)
def test_curves_compose_by_adding_times(x: float, s: float, t: float) -> None:
    assert lift64(lift64(x, s), t) == pytest.approx(lift64(x, s + t), abs=1e-12)


@given(tones, times)
def test_curve_has_its_inverse(x: float, t: float) -> None:
    assert lift64(lift64(x, t), -t) == pytest.approx(x, abs=1e-12)


@given(tones, tones, times)
def test_curve_is_monotone(x: float, y: float, t: float) -> None:
    low, high = sorted((x, y))
    assert lift64(low, t) <= lift64(high, t)


@given(st.floats(0.001, 0.999), times, times)
def test_curve_grows_with_time(x: float, s: float, t: float) -> None:
    low, high = sorted((s, t))
    assert lift64(x, low) <= lift64(x, high)


@pytest.mark.parametrize("t", [-8.0, -4.0, -1.0, 0.0, 1.0, 4.0, 8.0])
def test_curve_is_exact_in_float32(t: float) -> None:
    """Within 2e-7 at every gain of strength 2, inside 0 … 1, and with both ends where they were."""
    x = torch.cat([torch.linspace(0, 1, 100_001), torch.logspace(-8, 0, 10_000), 1 - torch.logspace(-7, -1, 10_000)])
    gain = torch.tensor(t).exp()
    ours = reference.lift(x, gain)
    assert float((ours - reference.lift(x.double(), gain.double())).abs().max()) < 2e-7
    assert float(ours.min()) == 0 and float(ours.max()) == 1
    assert t or torch.equal(ours, x)


# Slicing the grid.


def slice_naive(gain: NDArray[np.float64], guide: NDArray[np.float64]) -> NDArray[np.float64]:
    """Trilinear interpolation by its definition, one corner at a time, for one picture."""
    channels, bins, rows, columns = gain.shape
    height, width = guide.shape
    result = np.zeros((channels, height, width))
    for y in range(height):
        for x in range(width):
            at = (guide[y, x] * (bins - 1), (y + 0.5) * rows / height - 0.5, (x + 0.5) * columns / width - 0.5)
            for d in range(bins):
                for i in range(math.floor(at[1]), math.floor(at[1]) + 2):
                    for j in range(math.floor(at[2]), math.floor(at[2]) + 2):
                        weight = math.prod(max(0, 1 - abs(a - b)) for a, b in zip(at, (d, i, j), strict=True))
                        result[:, y, x] += weight * gain[:, d, np.clip(i, 0, rows - 1), np.clip(j, 0, columns - 1)]
    return result


@grids
@pytest.mark.parametrize("size", [(16, 16), (17, 19)], ids=str)
def test_slice_is_trilinear(grid: tuple[int, ...], size: tuple[int, int]) -> None:
    gain = random_grid(1, *grid, seed=1).double().exp()
    guide = torch.rand(1, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    guide[0, 0, :4] = torch.tensor([0, 1, 1 / 7, 0.5])
    expected = slice_naive(gain[0].numpy(), guide[0].numpy())
    assert np.abs(reference.slice_grid(gain, guide)[0].numpy() - expected).max() < 1e-12
    float32 = reference.slice_grid(gain.float(), guide.float())[0].numpy()
    assert np.abs(float32 - expected).max() < 1e-5 * expected.max()


# Writing back into the planes.


@formats
@sizes
def test_strength_0_is_the_identity_bit_for_bit(name: str, size: tuple[int, int]) -> None:
    pixel_format = PixelFormat(name)
    planes = random_planes(pixel_format, size, batch=2, seed=3)
    gain = reference.exponentiate(random_grid(2, seed=4), 0.0)
    for color in COLORS:
        result = reference.apply_curves(planes, gain, pixel_format, color_for(pixel_format, color))
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(result, planes, strict=True))


def apply_naive(
    planes: list[NDArray[np.float64]], gain: NDArray[np.float64], pixel_format: PixelFormat, color: Color
) -> list[NDArray[np.float64]]:
    """DESIGN's formula pixel by pixel in float64, unrounded."""
    height, width = planes[0].shape
    scales = [color.scales(pixel_format.depth)[min(i, 1)] for i in range(3)]
    rgb = np.zeros((3, height, width))
    for y in range(height):
        for x in range(width):
            yuv = np.zeros(3)
            for i, plane in enumerate(planes):
                code = plane[y >> pixel_format.shift_y, x >> pixel_format.shift_x] if i else plane[y, x]
                yuv[i] = (code - scales[i][0]) / scales[i][1]
            rgb[:, y, x] = yuv[0] if len(planes) == 1 else np.array(color.to_rgb()) @ yuv
    rgb = rgb.clip(0, 1)
    sliced = slice_naive(gain, rgb.max(0))
    delta = np.einsum(
        "ij,jhw->ihw", np.linalg.inv(np.array(color.to_rgb())), rgb * sliced / (1 + rgb * (sliced - 1)) - rgb
    )
    result = []
    for i, plane in enumerate(planes):
        lifted = plane.copy()
        high, wide = (1 << pixel_format.shift_y, 1 << pixel_format.shift_x) if i else (1, 1)
        for row, column in np.ndindex(*plane.shape):
            ys = np.minimum(np.arange(row * high, (row + 1) * high), height - 1)
            xs = np.minimum(np.arange(column * wide, (column + 1) * wide), width - 1)
            lifted[row, column] += delta[i][np.ix_(ys, xs)].mean() * scales[i][1]
        result.append(lifted)
    return result


@formats
def test_apply_is_the_formula_pixel_by_pixel(name: str) -> None:
    pixel_format = PixelFormat(name)
    planes = random_planes(pixel_format, (17, 19), seed=5)
    gain = reference.exponentiate(random_grid(1, seed=6)[0], 1.0)
    color = color_for(pixel_format, COLORS[len(name) % len(COLORS)])
    expected = apply_naive([p.double().numpy() for p in planes], gain.double().numpy(), pixel_format, color)
    unrounded = reference.apply_curves(planes, gain, pixel_format, color, rounded=False)
    for ours, naive in zip(unrounded, expected, strict=True):
        # float32 carries 24 bits: a lift of e⁴ at 16 bits leaves a few hundredths of a code.
        assert np.abs(ours.numpy() - naive).max() < 1e-5 * pixel_format.max_code
    for ours, naive in zip(reference.apply_curves(planes, gain, pixel_format, color), expected, strict=True):
        assert (
            np.abs(ours.to(torch.float64).numpy() - naive.clip(0, pixel_format.max_code)).max()
            < 0.5 + 1e-5 * pixel_format.max_code
        )


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64, torch.float32, torch.float16]
)
def test_any_dtype_of_planes_gives_the_same_codes(dtype: torch.dtype) -> None:
    pixel_format, color = PixelFormat("yuv420p"), Color()
    planes = random_planes(pixel_format, (37, 53), batch=2, seed=7)
    gain = random_grid(2, seed=8).exp()
    expected = reference.apply_curves(planes, gain, pixel_format, color)
    result = reference.apply_curves([plane.to(dtype) for plane in planes], gain, pixel_format, color)
    assert all(a.dtype == dtype and torch.equal(a.to(torch.uint8), b) for a, b in zip(result, expected, strict=True))


@formats
def test_one_lift_brightens_and_keeps_black_white_and_order(name: str) -> None:
    """Grey ramps through every code (in range and out): output rises with input, ends stay, the rest is lifted."""
    pixel_format = PixelFormat(name)
    for each in COLORS:
        color = color_for(pixel_format, each)
        codes = torch.linspace(0, pixel_format.max_code, 4096).long().unique()
        width = len(codes)
        planes = [codes.expand(16, width)] + [
            torch.full(pixel_format.plane_size(i, 16, width), 1 << (pixel_format.depth - 1))
            for i in range(1, pixel_format.channels)
        ]
        if pixel_format.is_rgb:
            planes = [planes[0]] * 3
        gain = torch.full((3, 8, 9, 16), 5.0)
        luma = reference.apply_curves(planes, gain, pixel_format, color)[0][0]
        offset, scale = color.scales(pixel_format.depth)[0]
        inside = (codes > offset) & (codes < offset + scale)
        assert bool((luma.diff() >= 0).all()) and bool((luma[inside] >= codes[inside]).all())
        assert torch.equal(luma[~inside], codes[~inside])
        middle = int((codes - offset - scale / 4).abs().argmin())
        assert float((luma[middle] - offset) / scale) == pytest.approx(5 / 8, abs=0.01)  # L(1/4; ln 5) = 5/8


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=2, max_size=12), st.floats(0, 2))
def test_no_grid_turns_the_order_of_greys_around(t: list[float], strength: float) -> None:
    grid = torch.tensor(t, dtype=torch.float64).reshape(1, 1, -1, 1, 1)
    gain = reference.exponentiate(grid, strength)
    grey = torch.linspace(0, 1, 4001, dtype=torch.float64).expand(1, 3, 1, 4001)
    assert bool((reference.enhance_rgb(grey, gain).diff() >= -1e-12).all())


@given(st.lists(st.floats(-1, 1), min_size=8, max_size=8), st.floats(-2, 2))
def test_gentle_grids_are_exponentiated_as_they_are(steps: list[float], first: float) -> None:
    """logit L = logit x + t(x) and (logit x)' ≥ 4: greys keep their order while the gain falls by at most a factor
    1 + 4/(D − 1) from bin to bin."""
    most = math.log1p(4 / 7)
    t = first + torch.tensor([step * most for step in steps], dtype=torch.float64).cumsum(0)
    grid = t.reshape(1, 8, 1, 1)
    torch.testing.assert_close(reference.exponentiate(grid, 1), grid.exp())


@formats
def test_batch_is_its_items(name: str) -> None:
    pixel_format = PixelFormat(name)
    color = color_for(pixel_format, Color())
    planes = random_planes(pixel_format, (37, 53), batch=3, seed=9)
    gain = random_grid(3, seed=10).exp()
    lifted = reference.apply_curves(planes, gain, pixel_format, color)
    thumbnails, histograms = reference.analyze(planes, pixel_format, color, (24, 32))
    for item in range(3):
        single = [plane[item] for plane in planes]
        alone = reference.apply_curves(single, gain[item], pixel_format, color)
        assert all(torch.equal(a[item], b) for a, b in zip(lifted, alone, strict=True))
        thumbnail, histogram = reference.analyze(single, pixel_format, color, (24, 32))
        torch.testing.assert_close(thumbnails[item], thumbnail, atol=1e-6, rtol=0)
        # A tone on the border of two bins may fall on either side.
        assert float((histograms[item] - histogram).abs().sum()) <= 4 / (24 * 32)


def test_shared_curve_equals_three_alike() -> None:
    rgb = torch.rand(2, 3, 20, 30)
    gain = random_grid(2, 1, seed=11).exp()
    expected = reference.enhance_rgb(rgb, gain.expand(-1, 3, -1, -1, -1))
    torch.testing.assert_close(reference.enhance_rgb(rgb, gain), expected)


def test_wrong_number_of_planes_is_said() -> None:
    planes = random_planes(PixelFormat("gray"), (16, 16))
    with pytest.raises(UsageError, match="yuv420p has 3 planes, not 1"):
        reference.planes_to_rgb(planes, PixelFormat("yuv420p"), Color())


# Gradients.


def test_gradients_flow_through_lift_slice_and_thumbnail() -> None:
    generator = torch.Generator().manual_seed(12)
    pixel_format, color = PixelFormat("yuv420p"), Color()
    planes = [plane.double().requires_grad_() for plane in random_planes(pixel_format, (17, 19), seed=13)]
    grid = (random_grid(1, 3, 4, 2, 3, seed=14) / 4).double().requires_grad_()
    rgb = torch.rand(1, 3, 5, 7, dtype=torch.float64, generator=generator).requires_grad_()

    def enhance(rgb: Tensor, grid: Tensor) -> Tensor:
        return reference.enhance_rgb(rgb, reference.exponentiate(grid, 1.0))

    def apply(grid: Tensor, *planes: Tensor) -> tuple[Tensor, ...]:
        gain = reference.exponentiate(grid, 1.0)[0]
        return tuple(reference.apply_curves(planes, gain, pixel_format, color, rounded=False))

    def thumbnail(*planes: Tensor) -> Tensor:
        return reference.analyze(planes, pixel_format, color, (8, 8))[0]

    check: list[tuple[Callable[..., object], tuple[Tensor, ...]]] = [
        (enhance, (rgb, grid)), (apply, (grid, *planes)), (thumbnail, tuple(planes))
    ]  # fmt: skip
    for function, inputs in check:
        assert torch.autograd.gradcheck(function, inputs, eps=1e-7, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("name", "tolerance"), [("yuv420p", 0.02), ("yuv422p10le", 0.05), ("yuv444p12le", 0.2)])
def test_float32_is_enough_at_full_size(name: str, tolerance: float) -> None:
    """1080p against float64, with neighbouring cells as far apart as the network can set them: codes off. (Measured
    over three seeds: 0.006, 0.017 and 0.1.)"""
    pixel_format = PixelFormat(name)
    planes = random_planes(pixel_format, (1080, 1920), seed=15)
    exact = [plane.double() for plane in planes]
    gain = random_grid(1, seed=16)[0].double().exp()
    lifted = reference.apply_curves(planes, gain.float(), pixel_format, Color(), rounded=False)
    for ours, expected in zip(
        lifted, reference.apply_curves(exact, gain, pixel_format, Color(), rounded=False), strict=True
    ):
        assert float((ours - expected).abs().max()) < tolerance
    thumbnail, _ = reference.analyze(planes, pixel_format, Color(), (72, 128))
    expected, _ = reference.analyze(exact, pixel_format, Color(), (72, 128))
    assert float((thumbnail - expected).abs().max()) < 1e-6


# Restraint.


def restraint_naive(t: NDArray[np.float64], picture: NDArray[np.float64], strength: float) -> float:
    """The factor, pixel by pixel: what the docstring says."""
    bins, rows, columns = t.shape[1:]
    height, width = picture.shape[1:]
    gained = dark = bright = 0.0
    for y in range(height):
        for x in range(width):
            tone = float(picture[:, y, x].max())
            cell = t[:, :, y * rows // height, x * columns // width].mean(0)
            for bin_, hat in enumerate(1 - np.abs(tone * (bins - 1) - np.arange(bins))):
                z = bin_ / (bins - 1)
                gained += max(hat, 0) * (lift64(z, cell[bin_]) - z)
            dark += 1 if tone < 1 / 7 else max(2 - 7 * tone, 0)
            bright += 1 if tone > 6 / 7 else max(7 * tone - 5, 0)
    gained, dark, bright = (total / (height * width) for total in (gained, dark, bright))
    evidence = gained + reference.DARK_WEIGHT * dark + reference.BRIGHT_WEIGHT * bright
    factor = min(max((evidence - reference.DOUBT) / (reference.BELIEF - reference.DOUBT), 0), 1)
    factor = max(factor, min(reference.HARMLESS / gained, 1)) if gained > 0 else 1
    return factor if strength <= 1 else factor + (1 - factor) * (strength - 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strength", [0.5, 1.0, 1.6, 2.0])
@pytest.mark.parametrize("contrast", [0.3, 0.6, 0.8, 1.0])
def test_restraint_is_the_formula_pixel_by_pixel(channels: int, strength: float, contrast: float) -> None:
    t = random_grid(1, channels, 8, 2, 3, seed=5)[0].abs() / 8
    picture = 0.5 + contrast * (torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(3)) - 0.5)
    expected = t * restraint_naive(t.double().numpy(), picture.double().numpy(), strength)
    torch.testing.assert_close(reference.restrain(t, picture, strength), expected, atol=1e-5, rtol=1e-5)


def test_restraint_of_pictures_that_are_plain() -> None:
    """Black ones keep all; an even grey, without evidence, the lift that is harmless; no lift, no restraint."""
    t = torch.full((3, 8, 2, 2), 0.6)
    assert torch.equal(reference.restrain(t, torch.zeros(3, 16, 16)), t)
    grey = torch.full((3, 16, 16), 4 / 7)
    gained = lift64(4 / 7, 0.1) - 4 / 7
    faint = reference.restrain(t / 6, grey)
    torch.testing.assert_close(faint, t / 6 * (reference.HARMLESS / gained))
    assert torch.equal(reference.restrain(-t, grey), -t)


def test_restraint_of_halves() -> None:
    """Half black, half grey: 0.4·½ of evidence, and half of what the grey gains."""
    picture = torch.zeros(3, 16, 16)
    picture[:, 8:] = 4 / 7
    t = torch.full((3, 8, 2, 2), 0.2)
    evidence = 0.4 / 2 + (lift64(4 / 7, 0.2) - 4 / 7) / 2
    assert 0.1 < evidence < 0.3
    torch.testing.assert_close(reference.restrain(t, picture), t * (evidence - 0.1) / 0.2)


def test_restraint_of_a_batch_is_its_items() -> None:
    t, pictures = (
        random_grid(3, 3, 8, 2, 3, seed=6) / 8,
        torch.rand(3, 3, 16, 24) * torch.tensor([0.2, 0.5, 1]).view(3, 1, 1, 1),
    )
    for item, picture, result in zip(t, pictures, reference.restrain(t, pictures), strict=True):
        torch.testing.assert_close(reference.restrain(item, picture), result)
