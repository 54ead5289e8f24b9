"""`restrain` against the reference."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import Tensor

import rtlit_kernels
from rtlit import reference
from tests.frames import random_grid

kernel = import_module("rtlit_kernels.restrain")  # as an attribute it is the launcher

# Grid, thumbnail: what ships, wide and upright; one curve; few and many bins; cells of odd sizes, of a column, of many
# pixels.
SHAPES = [
    ((3, 8, 14, 24), (112, 192)),
    ((3, 8, 24, 14), (192, 112)),
    ((1, 8, 9, 16), (72, 128)),
    ((3, 2, 12, 16), (96, 128)),
    ((3, 33, 17, 31), (51, 155)),
    ((1, 3, 31, 17), (217, 17)),
    ((3, 5, 2, 2), (150, 142)),
    ((1, 12, 1, 1), (16, 16)),
]
shapes = pytest.mark.parametrize(("shape", "size"), SHAPES, ids=str)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one program in the interpreter, too."""
    monkeypatch.setattr(kernel, "_PIXELS", min(kernel._PIXELS, 4096))


def controls(strength: float, device: torch.device) -> Tensor:
    return torch.tensor([0.3, strength, 1.0, 7.0], device=device)


def factor(result: Tensor, t: Tensor) -> float:
    return float((result.double() * t).sum() / t.double().square().sum())


def case(shape: tuple[int, int, int, int], size: tuple[int, int], wanted: float) -> tuple[Tensor, Tensor]:
    """A grid that lifts and lowers, and a thumbnail of so much contrast that the reference's factor is the one wanted:
    at first it has neither dark nor bright pixels, in the end nothing else."""
    t = random_grid(1, *shape, seed=1)[0] / 4 + 0.4
    generator = torch.Generator().manual_seed(sum(shape) + sum(size))
    tones = torch.rand(size, generator=generator) - 0.5
    hue = torch.rand(3, *size, generator=generator) + 0.5
    hue /= hue.amax(0)
    low, high = (0.3, 0.3) if wanted == 0 else (50.0, 50.0) if wanted == 1 else (0.3, 50.0)
    for _ in range(30):
        middle = (low + high) / 2
        above = factor(reference.restrain(t, hue * (0.5 + middle * tones).clamp(0, 1)), t) > wanted
        low, high = (low, middle) if above else (middle, high)
    return t, hue * (0.5 + high * tones).clamp(0, 1)


def test_constants_are_the_references() -> None:
    for name in ("DARK_WEIGHT", "BRIGHT_WEIGHT", "DOUBT", "BELIEF", "HARMLESS"):
        assert getattr(kernel, name) == getattr(reference, name)


@shapes
@pytest.mark.parametrize("wanted", [0.0, 0.3, 0.9, 1.0])
def test_restrain(
    shape: tuple[int, int, int, int], size: tuple[int, int], wanted: float, device: torch.device, programs: None
) -> None:
    """Twice, the second time in place, on the same scratch: the same to the bit. Two bins lift nothing."""
    t, thumbnail = case(shape, size, wanted)
    expected = reference.restrain(t, thumbnail)
    assert factor(expected, t) == pytest.approx(1 if shape[1] == 2 else wanted, abs=0.1 if wanted == 0 else 1e-3)
    grid, scratch = t.to(device), torch.zeros(kernel.SCRATCH, dtype=torch.int64, device=device)
    out = torch.full_like(grid, torch.nan)
    one = controls(1, device)
    assert rtlit_kernels.restrain(grid, thumbnail.to(device), one, out=out, scratch=scratch) is out
    assert not scratch.any() and torch.equal(grid.cpu(), t)
    torch.testing.assert_close(out.cpu(), expected, atol=2e-5, rtol=1e-5)
    if wanted == 1:
        assert torch.equal(out.cpu(), expected), "exactly all of it"
    assert rtlit_kernels.restrain(grid, thumbnail.to(device), one, out=grid, scratch=scratch) is grid
    assert not scratch.any() and torch.equal(grid, out)


@pytest.mark.parametrize("strength", [0.0, 0.7, 1.0, 1.25, 1.9, 2.0])
def test_strength_eases_it(strength: float, device: torch.device) -> None:
    t, thumbnail = case((3, 8, 14, 24), (112, 192), 0.3)
    got = rtlit_kernels.restrain(t.to(device), thumbnail.to(device), controls(strength, device)).cpu()
    torch.testing.assert_close(got, reference.restrain(t, thumbnail, strength), atol=2e-5, rtol=1e-5)
    assert strength < 2 or torch.equal(got, t)


@pytest.mark.parametrize("bins", [2, 8])
@pytest.mark.parametrize("tone", [0.0, 0.05, 1 / 7, 0.2, 2 / 7, 0.5, 0.8, 6 / 7, 1.0])
@pytest.mark.parametrize("t", [-4.0, 0.0, 0.02, 0.6, 4.0])
def test_flat_pictures(t: float, tone: float, bins: int, device: torch.device) -> None:
    """Bins and ends of ramps are met exactly; extremes of t."""
    grid, thumbnail = torch.full((3, bins, 5, 7), t), torch.full((3, 40, 56), tone)
    got = rtlit_kernels.restrain(grid.to(device), thumbnail.to(device), controls(1, device)).cpu()
    torch.testing.assert_close(got, reference.restrain(grid, thumbnail), atol=4e-5, rtol=1e-5)


def test_each_channel_counts(device: torch.device) -> None:
    """The brightest channel is the tone, whichever it is."""
    for channel in range(3):
        grid, thumbnail = torch.full((3, 8, 4, 4), 0.7), torch.full((3, 32, 32), 0.01)
        thumbnail[channel] = torch.linspace(0.1, 0.9, 32)
        expected = reference.restrain(grid, thumbnail)
        assert 0.1 < factor(expected, grid) < 0.9
        got = rtlit_kernels.restrain(grid.to(device), thumbnail.to(device), controls(1, device)).cpu()
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)


def test_what_it_cannot_take_is_said(device: torch.device) -> None:
    t, thumbnail = torch.zeros(3, 8, 4, 6, device=device), torch.zeros(3, 32, 48, device=device)
    one = controls(1, device)
    with pytest.raises(ValueError, match=r"of \[8, 4, 6\] and \[3, 32, 48\]; expected \[K, D, GH, GW\], D at least 2"):
        rtlit_kernels.restrain(t[0], thumbnail, one)
    with pytest.raises(ValueError, match=r"a thumbnail of 32×47; expected multiples of the grid's 4×6 cells"):
        rtlit_kernels.restrain(t, thumbnail[..., :47], one)
    with pytest.raises(ValueError, match=r"strides \(1536, 1, 32\); expected conti"):
        rtlit_kernels.restrain(t, torch.zeros(3, 48, 32, device=device).mT, one)
    with pytest.raises(ValueError, match=r"estimate is of torch.float64"):
        rtlit_kernels.restrain(t.double(), thumbnail, one)
    with pytest.raises(ValueError, match=r"scratch of \[1\], torch.int32; expected \[3, 8, 4, 6\] and \[1\], torch"):
        rtlit_kernels.restrain(t, thumbnail, one, scratch=torch.zeros(1, dtype=torch.int32, device=device))
    with pytest.raises(ValueError, match=r"controls is of torch.float64"):
        rtlit_kernels.restrain(t, thumbnail, one.double())
