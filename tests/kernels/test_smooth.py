"""`smooth`, `exponentiate` and the fused `follow` against the reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import rtlit_kernels
from rtlit import reference
from rtlit_kernels.smooth import CUT_DISTANCE, MAX_LAG, State
from tests.frames import random_grid

SHAPES = [(3, 8, 14, 24), (1, 8, 9, 16), (3, 2, 2, 2), (1, 5, 17, 31), (3, 3, 20, 36)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def grid(shape: tuple[int, ...], seed: int) -> Tensor:
    channels, bins, rows, columns = shape
    return random_grid(1, channels, bins, rows, columns, seed)[0]


def histograms(distance: float) -> tuple[Tensor, Tensor]:
    """Two distributions that are so far apart."""
    last = torch.rand(reference.HISTOGRAM_BINS, generator=torch.Generator().manual_seed(1))
    last[:64] = 0
    last /= last.sum()
    return last * (1 - distance) + last.flip(0) * distance, last


def test_constants_are_the_references() -> None:
    assert (CUT_DISTANCE, MAX_LAG) == (reference.CUT_DISTANCE, reference.MAX_LAG)


@shapes
@pytest.mark.parametrize("distance", [0.0, 0.399, 0.401])
@pytest.mark.parametrize(("elapsed", "tau"), [(0.04, 0.5), (0.04, 0.0), (0.0, 0.5)])
def test_smooth(shape: tuple[int, ...], distance: float, elapsed: float, tau: float, device: torch.device) -> None:
    estimate, last = grid(shape, 1), grid(shape, 1) + 0.05 * grid(shape, 2)
    histogram, before = histograms(distance)
    wanted = reference.smooth(estimate, histogram, last, before, elapsed, tau)
    arguments = [tensor.to(device) for tensor in (estimate, histogram, last, before)]
    got = rtlit_kernels.smooth(*arguments, elapsed, tau)
    torch.testing.assert_close(got.cpu(), wanted, atol=1e-6, rtol=1e-5)
    assert rtlit_kernels.smooth(*arguments, elapsed, tau, out=arguments[2]) is arguments[2]  # in place
    assert torch.equal(arguments[2], got)


@shapes
@pytest.mark.parametrize("strength", [0.0, 0.7, 2.0])
def test_exponentiate(shape: tuple[int, ...], strength: float, device: torch.device) -> None:
    t = grid(shape, 3)
    got = rtlit_kernels.exponentiate(t.to(device), strength).cpu()
    torch.testing.assert_close(got, reference.exponentiate(t, strength), atol=0, rtol=1e-5)
    assert strength or bool((got == 1).all())


@shapes
@pytest.mark.parametrize("exponentiated", [True, False])
def test_follow_is_the_reference_over_a_video(
    shape: tuple[int, int, int, int], exponentiated: bool, device: torch.device
) -> None:
    """A frame that starts afresh, one a little later, one of another strength, a cut, another reset."""
    state, out = State.empty(shape, device), torch.empty(shape, device=device)
    state.grid.fill_(math.nan)  # nothing of it may be read
    wanted, before = torch.full(shape, math.nan), torch.zeros(reference.HISTOGRAM_BINS)
    frames = [(0.04, 1.0, 1.0, 0.0), (0.04, 1.0, 0.0, 0.1), (0.2, 0.5, 0.0, 0.2), (0.04, 1.5, 0.0, 0.9), (1, 1, 1, 0.9)]
    for index, (elapsed, strength, reset, distance) in enumerate(frames):
        estimate, histogram = grid(shape, 1) + 0.05 * grid(shape, 2 + index), histograms(distance)[0]
        smoothed = reference.smooth(estimate, histogram, wanted, before, elapsed, 0.5)
        wanted = estimate if reset else smoothed
        cut = bool(reset) or bool(reference.is_cut(histogram, before))
        before = histogram
        controls = torch.tensor([math.exp(-elapsed / 0.5), strength, reset, 0.0], device=device)
        result = rtlit_kernels.follow(
            estimate.to(device), histogram.to(device), state, controls, out=out, exponentiated=exponentiated
        )
        assert result is out and state.cut.item() == cut and state.ticket.item() == 0
        torch.testing.assert_close(state.grid.cpu(), wanted, atol=1e-6, rtol=1e-5)
        assert torch.equal(state.histogram.cpu(), histogram)
        gain = reference.exponentiate(wanted, strength) if exponentiated else strength * wanted
        torch.testing.assert_close(out.cpu(), gain, atol=2e-6, rtol=1e-5)


def test_what_it_cannot_take_is_said(device: torch.device) -> None:
    t = grid((3, 8, 4, 6), 1).to(device)
    with pytest.raises(ValueError, match=r"a grid of \[8, 4, 6\]; expected \[K, D, GH, GW\]"):
        rtlit_kernels.exponentiate(t[0], 1.0)
    with pytest.raises(ValueError, match=r"out is .*strides \(192, 24, 1, 4\); expected contiguous \[3, 8, 4, 6\]"):
        rtlit_kernels.exponentiate(t, 1.0, out=torch.empty(3, 8, 6, 4, device=device).mT)
    with pytest.raises(ValueError, match=r"last_histogram is \[64\] of torch.float32"):
        rtlit_kernels.smooth(t, torch.zeros(128, device=device), t, torch.zeros(64, device=device), 0.1, 0.5)
