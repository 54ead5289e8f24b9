"""`filter_planes` against its specification: every format, any strides, and what starts afresh."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import rtlit_kernels
from rtlit import denoise
from rtlit.frame import PixelFormat
from rtlit_kernels import denoise as kernels
from tests.frames import random_planes
from tests.kernels.frames3 import LAYOUTS, on

# In units of the 16-bit state: reciprocals in place of divisions, and rounding once where two are fused.
TOLERANCE, SHARE = 1, 0.002


def two_frames(pixel_format: PixelFormat, size: tuple[int, int]) -> tuple[list[Tensor], list[Tensor]]:
    """Random codes, and the same with noise (standard deviation 3 8-bit codes), a quarter of the rows moved by far."""
    first, rng = random_planes(pixel_format, size, seed=1), np.random.default_rng(1)
    second = [plane.clone() if not pixel_format.interleaved else plane for plane in random_planes(pixel_format, size)]
    for before, plane in zip(first, second, strict=True):
        codes = before.numpy().astype(np.float64) / (1 << pixel_format.low_bits)
        noise = rng.normal(0, 3 * 2 ** (pixel_format.depth - 8), codes.shape)
        noise[: codes.shape[0] // 4] *= 5
        moved = np.rint(codes + noise).clip(0, pixel_format.max_code).astype(np.int32) << pixel_format.low_bits
        plane.copy_(torch.from_numpy(moved))
    return first, second


def check(got: list[Tensor], wanted: list[Tensor]) -> None:
    for plane, (ours, theirs) in enumerate(zip(got, wanted, strict=True)):
        distance = (ours.cpu().float() - theirs).abs()
        assert ours.dtype == torch.uint16 and float(distance.max()) <= TOLERANCE, f"plane {plane}"
        assert float((distance > 0).float().mean()) <= SHARE, f"plane {plane}"


# What the kernel knows of a format: its depth, low bits, planes' shapes and strides.
FORMATS = [
    "gray", "gray16le", "yuv420p", "yuv410p", "yuv422p", "yuv440p", "yuv420p9le", "yuv444p10le", "yuv420p12le",
    "gbrp", "nv12", "p010le", "p412le", "p216le",
]  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(name: str, device: torch.device) -> None:
    pixel_format = PixelFormat(name)
    first, second = two_frames(pixel_format, (16, 37))
    start = rtlit_kernels.filter_planes(on(device, first), None, pixel_format, 0.5)
    states = denoise.filter_planes(first, None, pixel_format, 0.5)
    assert all(torch.equal(ours.cpu().float(), theirs) for ours, theirs in zip(start, states, strict=True))
    got = rtlit_kernels.filter_planes(on(device, second), start, pixel_format, 0.5)
    check(got, denoise.filter_planes(second, states, pixel_format, 0.5))
    new = denoise.filter_planes(second, None, pixel_format, 0.5)
    assert all(bool((ours.cpu().float() != plane).any()) for ours, plane in zip(got, new, strict=True))


@pytest.mark.parametrize("name", ["yuv420p", "yuv422p10le", "p010le"])
def test_more_than_a_program_and_none_whole(name: str, device: torch.device) -> None:
    pixel_format = PixelFormat(name)
    first, second = two_frames(pixel_format, (27, 139))
    states = denoise.filter_planes(first, None, pixel_format, 1.0)
    last = [plane.to(torch.uint16).to(device) for plane in states]
    got = rtlit_kernels.filter_planes(on(device, second), last, pixel_format, 1.0)
    check(got, denoise.filter_planes(second, states, pixel_format, 1.0))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["yuv420p", "gbrp10le"])
def test_memory_layouts(name: str, layout: object, device: torch.device) -> None:
    pixel_format = PixelFormat(name)
    first, second = two_frames(pixel_format, (16, 37))
    last = rtlit_kernels.filter_planes(on(device, first), None, pixel_format, 0.5)
    wanted = rtlit_kernels.filter_planes(on(device, second), last, pixel_format, 0.5)
    laid = [layout(plane) for plane in on(device, second)]  # type: ignore[operator]
    out = [torch.zeros_like(plane) for plane in last]
    result = rtlit_kernels.filter_planes(laid, last, pixel_format, 0.5, out=out)
    assert all(
        ours is target and torch.equal(ours, plane) for ours, target, plane in zip(result, out, wanted, strict=True)
    )


def test_the_device_says_what_starts_afresh(device: torch.device) -> None:
    pixel_format = PixelFormat("yuv420p")
    first, second = two_frames(pixel_format, (16, 37))
    last = rtlit_kernels.filter_planes(on(device, first), None, pixel_format, 0.5)
    fresh = torch.ones(1, dtype=torch.int32, device=device)
    new = rtlit_kernels.filter_planes(on(device, second), last, pixel_format, 0.5, fresh=fresh)
    wanted = rtlit_kernels.filter_planes(on(device, second), None, pixel_format, 0.5)
    assert all(map(torch.equal, new, wanted))
    followed = rtlit_kernels.filter_planes(on(device, second), last, pixel_format, 0.5, fresh=fresh.zero_())
    wanted = rtlit_kernels.filter_planes(on(device, second), last, pixel_format, 0.5)
    assert all(map(torch.equal, followed, wanted)) and not torch.equal(followed[0], new[0])


def test_constants_are_those_of_the_specification() -> None:
    assert (kernels.BITS, kernels.KEPT, 2) == (denoise.BITS, denoise.KEPT, denoise.RADIUS)
    for name in ("yuv420p", "gbrp", "gray10le"):
        pixel_format = PixelFormat(name)
        sigmas = [kernels.sigma_of(plane, pixel_format, 0.3) for plane in range(pixel_format.channels)]
        assert sigmas == pytest.approx(denoise.noise_sigmas(0.3, pixel_format))
    assert kernels.limits_of(7.0) == denoise.limits(7.0)


def test_what_it_cannot_take_is_said(device: torch.device) -> None:
    pixel_format = PixelFormat("gray")
    planes = on(device, random_planes(pixel_format, (16, 32)))
    last = rtlit_kernels.filter_planes(planes, None, pixel_format, 0.5)
    with pytest.raises(ValueError, match="out must not be last"):
        rtlit_kernels.filter_planes(planes, last, pixel_format, 0.5, out=last)
    with pytest.raises(ValueError, match="amount = 0 must be above 0"):
        rtlit_kernels.filter_planes(planes, last, pixel_format, 0)
    with pytest.raises(ValueError, match=r"filtered planes of .*; expected contiguous uint16"):
        rtlit_kernels.filter_planes(planes, [last[0][:, ::2]], pixel_format, 0.5)
    with pytest.raises(
        ValueError, match=r"plane 0 is \[16, 32\] of torch.uint8 .*; expected \[16, 32\] of torch.uint16"
    ):
        rtlit_kernels.filter_planes(planes, last, PixelFormat("gray10le"), 0.5)
