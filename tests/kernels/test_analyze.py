"""`analyze` against the reference: every format, sizes above and below the thumbnail's, any memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import rtlit_kernels
from rtlit import reference
from rtlit.frame import Color, PixelFormat
from rtlit_kernels.analyze import SCRATCH
from tests.frames import COLORS, FORMATS, INTERLEAVED, color_for, random_planes
from tests.kernels.frames3 import LAYOUTS, on, turned

# Sums of up to a few thousand codes in float32, in another order. Tones are counted in 1/65536 of a pixel.
THUMBNAIL, HISTOGRAM = 3e-6, 2e-5


def check(
    planes: list[Tensor], laid: list[Tensor], name: str, color: Color, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Analyze `laid`, the planes in some memory, twice: the second time bit for bit, with the scratch of the first."""
    pixel_format, device = PixelFormat(name), laid[0].device
    scratch = torch.zeros(SCRATCH, dtype=torch.int32, device=device)
    thumbnail, histogram = rtlit_kernels.analyze(laid, pixel_format, color, size, scratch=scratch)
    wanted = reference.analyze([plane.contiguous() for plane in planes], pixel_format, color, size)
    torch.testing.assert_close(thumbnail.cpu(), wanted[0], atol=THUMBNAIL, rtol=0)
    torch.testing.assert_close(histogram.cpu(), wanted[1], atol=HISTOGRAM, rtol=0)
    out = torch.full_like(thumbnail, -1), torch.full_like(histogram, -1)
    again = rtlit_kernels.analyze(laid, pixel_format, color, size, out=out, scratch=scratch)
    assert again[0] is out[0] and again[1] is out[1] and not scratch.any()
    assert torch.equal(thumbnail, out[0]) and torch.equal(histogram, out[1])
    return thumbnail, histogram


@pytest.mark.parametrize("name", FORMATS + INTERLEAVED)
def test_every_format(name: str, device: torch.device) -> None:
    color = color_for(PixelFormat(name), Color("bt601", full_range=name.startswith("yuvj")))
    planes = random_planes(PixelFormat(name), (37, 53), seed=3)
    check(planes, on(device, planes), name, color, (4, 8))


@pytest.mark.parametrize("color", COLORS, ids=lambda color: f"{color.matrix}-{'full' if color.full_range else 'tv'}")
@pytest.mark.parametrize("name", ["yuv420p", "p010le"])
def test_every_colour(name: str, color: Color, device: torch.device) -> None:
    planes = random_planes(PixelFormat(name), (16, 32), seed=4)
    check(planes, on(device, planes), name, color, (4, 4))


@pytest.mark.parametrize(
    ("size", "thumbnail"),
    [
        ((16, 16), (4, 8)),
        ((16, 16), (4, 40)),  # enlarged
        ((19, 17), (20, 16)),
        ((211, 97), (4, 8)),
        ((16, 300), (4, 40)),
        ((1080, 1920), (4, 16)),
        ((64, 7680), (4, 160)),
        ((4320, 40), (4, 4)),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["nv12", "yuv411p"])
def test_sizes(name: str, size: tuple[int, int], thumbnail: tuple[int, int], device: torch.device) -> None:
    planes = random_planes(PixelFormat(name), size, seed=5)
    check(planes, on(device, planes), name, Color(), thumbnail)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["yuv420p", "gbrp10le"])
def test_memory_layouts(name: str, layout: object, device: torch.device) -> None:
    planes = random_planes(PixelFormat(name), (37, 53), seed=6)
    laid = [layout(plane) for plane in on(device, planes)]  # type: ignore[operator]
    check(planes, laid, name, color_for(PixelFormat(name), Color()), (4, 8))


@pytest.mark.parametrize("pitch", [64, 70], ids=["aligned", "odd"])
def test_interleaved_memory(pitch: int, device: torch.device) -> None:
    """As decoders give it: rows longer than the picture, one buffer; and V before U, as in NV21."""
    planes = random_planes(PixelFormat("nv12"), (36, 52), seed=7)
    buffer = torch.full((54, pitch), 77, dtype=torch.uint8, device=device)
    buffer[:36, :52], buffer[36:, :52:2], buffer[36:, 1:52:2] = (plane.to(device) for plane in planes)
    luma, blue, red = buffer[:36, :52], buffer[36:, :52:2], buffer[36:, 1:52:2]
    straight = check(planes, [luma, blue, red], "nv12", Color(), (4, 8))
    buffer[36:, :52:2], buffer[36:, 1:52:2] = (plane.to(device) for plane in (planes[2], planes[1]))
    swapped = check(planes, [luma, red, blue], "nv12", Color(), (4, 8))
    torch.testing.assert_close(straight, swapped, atol=THUMBNAIL, rtol=0)


@pytest.mark.parametrize("name", ["nv12", "yuv420p10le", "gray"])
def test_the_blocks_of_a_gpu(name: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles to a row of the thumbnail, several steps to a cell, none of them whole."""
    monkeypatch.setattr("rtlit_kernels.launch.INTERPRETED", False)
    planes = random_planes(PixelFormat(name), (171, 502), seed=8)
    check(planes, on(device, planes), name, Color(), (4, 40))


def test_the_histogram_tells_regions_apart(device: torch.device) -> None:
    """A tone of its own in each of 4×4 regions, between two of the histogram's."""
    tones = torch.linspace(0, 1, 16).reshape(4, 4).mul(255).round().to(torch.uint8)
    plane = tones.repeat_interleave(16, 0).repeat_interleave(24, 1)
    _, histogram = check([plane], on(device, [plane]), "gray", Color(full_range=True), (16, 24))
    regions = histogram.cpu().reshape(8, 16)
    torch.testing.assert_close(regions.sum(0), torch.full((16,), 1 / 16), atol=1e-6, rtol=0)
    mean = (regions * torch.arange(8)[:, None]).sum(0) * 16 / 7
    torch.testing.assert_close(mean, tones.flatten() / 255, atol=1e-4, rtol=0)


def test_what_it_cannot_take_is_said(device: torch.device) -> None:
    pixel_format = PixelFormat("yuv420p")
    planes = on(device, random_planes(pixel_format, (16, 32)))
    with pytest.raises(ValueError, match=r"size = \(10, 8\): each side must be a multiple of 4"):
        rtlit_kernels.analyze(planes, pixel_format, Color(), (10, 8))
    with pytest.raises(ValueError, match="1 planes of a format that has 3"):
        rtlit_kernels.analyze(planes[:1], pixel_format, Color(), (8, 8))
    with pytest.raises(ValueError, match=r"plane 1 is \[16, 32\] of torch.uint8 .*; expected \[8, 16\]"):
        rtlit_kernels.analyze([planes[0]] * 3, pixel_format, Color(), (8, 8))
    with pytest.raises(ValueError, match=r"planes 1 and 2 have strides \(16, 1\) and \(1, 8\)"):
        rtlit_kernels.analyze([*planes[:2], turned(planes[2])], pixel_format, Color(), (8, 8))
    with pytest.raises(ValueError, match="32×15 is too small"):
        rtlit_kernels.analyze([planes[0][:15], *planes[1:]], pixel_format, Color(), (8, 8))
    with pytest.raises(ValueError, match=r"out and scratch of \[\[3, 8, 8\], \[128\], \[64\]\]"):
        scratch = torch.zeros(64, dtype=torch.int32, device=device)
        rtlit_kernels.analyze(planes, pixel_format, Color(), (8, 8), scratch=scratch)
