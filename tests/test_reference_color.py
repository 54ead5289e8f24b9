"""YUV → RGB against swscale, the conversion that FFmpeg and its players use."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from av.filter import Graph
from numpy.typing import NDArray

from rtlit import denoise, reference
from rtlit.avframe import planar_name
from rtlit.frame import Color, PixelFormat
from tests.frames import COLORS, FORMATS, INTERLEAVED, SIZES, random_grid, random_planes

BLOCK = 8  # pixels a side of one colour: whole chroma samples at every subsampling, so siting can't matter
# swscale takes yuvj as full range whatever it is told: yuvj420p is left to the other tests.
YUV_FORMATS = [name for name in FORMATS if name.startswith("yuv") and not name.startswith("yuvj")]
colors = pytest.mark.parametrize(
    "color", COLORS, ids=lambda color: f"{color.matrix}-{'full' if color.full_range else 'tv'}"
)


def swscale(planes: list[NDArray[np.uint16]], name: str, color: Color, result: str) -> NDArray[np.float64]:
    """Convert with swscale, accurate rounding, no interpolation; R, G, B codes [3, H, W]."""
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, name)
    for target, plane in zip(frame.planes, planes, strict=True):
        lines = np.frombuffer(target, plane.dtype).reshape(-1, target.line_size // plane.itemsize)
        lines[: plane.shape[0], : plane.shape[1]] = plane
    graph = Graph()
    flags = "accurate_rnd+full_chroma_int+full_chroma_inp+bitexact+neighbor"
    levels = "pc" if color.full_range else "tv"
    chain = [
        graph.add_buffer(width=width, height=height, format=name, time_base=Fraction(1, 25)),
        graph.add("scale", f"flags={flags}:in_color_matrix={color.matrix}:in_range={levels}:out_range=pc"),
        graph.add("format", result),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*chain).configure()
    graph.push(frame)
    converted = graph.pull()
    assert isinstance(converted, av.VideoFrame) and converted.format.name == result
    dtype = np.dtype(np.uint8 if result == "gbrp" else np.uint16)
    g, b, r = (
        np.frombuffer(plane, dtype).reshape(-1, plane.line_size // dtype.itemsize)[:height, :width]
        for plane in converted.planes
    )
    return np.stack([r, g, b]).astype(np.float64)


def blocks_inside_the_cube(pixel_format: PixelFormat, color: Color, size: tuple[int, int]) -> list[NDArray[np.uint16]]:
    """Planes of flat blocks of random colours whose R'G'B' lie inside 0 … 1."""
    rng = np.random.default_rng(pixel_format.depth)
    rgb = rng.uniform(0.02, 0.98, (3, size[0] // BLOCK, size[1] // BLOCK))
    components = np.einsum("ij,jhw->ihw", np.array(color.from_rgb()), rgb)
    planes = []
    for index, component in enumerate(components):
        offset, scale = color.scales(pixel_format.depth)[min(index, 1)]
        shift = (pixel_format.shift_y, pixel_format.shift_x) if index else (0, 0)
        codes = np.round(offset + scale * component).astype(np.uint8 if pixel_format.depth == 8 else np.uint16)
        planes.append(np.ascontiguousarray(codes.repeat(BLOCK >> shift[0], 0).repeat(BLOCK >> shift[1], 1)))
    return planes


@colors
@pytest.mark.parametrize("name", YUV_FORMATS)
def test_rgb_agrees_with_swscale(name: str, color: Color) -> None:
    pixel_format = PixelFormat(name)
    planes = blocks_inside_the_cube(pixel_format, color, (48, 64))
    ours = reference.planes_to_rgb([torch.from_numpy(plane) for plane in planes], pixel_format, color).numpy()
    if color.full_range:
        # Full range converts exactly to RGB of the same depth alone; half a code is the rounding. Its fixed-point
        # coefficients cost 0.1 code at 12 bits, 2.5 at 16.
        result = f"gbrp{pixel_format.depth}le" if pixel_format.depth > 8 else "gbrp"
        peak, tolerance = pixel_format.max_code, {12: 0.62, 16: 2.6}.get(pixel_format.depth, 0.51)
    else:
        # Its 16-bit RGB of limited range has its white at 255·256, and fixed-point coefficients: 0.02 8-bit codes.
        result, peak, tolerance = "gbrp16le", 255 * 256, 0.02 * 256
    assert np.abs(ours * peak - swscale(planes, name, color, result)).max() < tolerance


@colors
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_444_of_any_size_agrees_with_swscale(color: Color, size: tuple[int, int]) -> None:
    """Independent random codes in every pixel, most of them outside the cube: clamped alike. (Codes beyond
    video levels are left out: swscale's integers overflow there and wrap white to black.)"""
    pixel_format = PixelFormat("yuv444p")
    low, high = (0, 255) if color.full_range else (16, 235)
    planes = [plane.clamp(low, high) for plane in random_planes(pixel_format, size)]
    ours = reference.planes_to_rgb(planes, pixel_format, color).clamp(0, 1).numpy() * 255
    theirs = swscale([plane.numpy() for plane in planes], "yuv444p", color, "gbrp")
    assert np.abs(ours - theirs).max() < 0.52  # rounding, and its coefficients


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", ["yuv420p", "yuv422p10le", "yuv440p", "yuv411p", "yuv410p"])
def test_a_chroma_sample_serves_its_whole_block(name: str, size: tuple[int, int]) -> None:
    pixel_format = PixelFormat(name)
    planes = random_planes(pixel_format, size)
    rows, columns = np.indices(size)
    full = [planes[0]] + [plane[rows >> pixel_format.shift_y, columns >> pixel_format.shift_x] for plane in planes[1:]]
    expected = reference.planes_to_rgb(full, PixelFormat("yuv444p" + name[len("yuv422p") :]), Color())
    assert torch.equal(reference.planes_to_rgb(planes, pixel_format, Color()), expected)


@pytest.mark.parametrize("name", ["gbrp", "gbrp10le", "gbrp16le"])
def test_rgb_planes_are_only_reordered(name: str) -> None:
    pixel_format = PixelFormat(name)
    g, b, r = planes = random_planes(pixel_format, (17, 19))
    rgb = reference.planes_to_rgb(planes, pixel_format, Color("rgb", True))
    assert torch.equal(rgb, torch.stack([r, g, b]).float() / pixel_format.max_code)


@pytest.mark.parametrize("name", INTERLEAVED)
def test_interleaved_formats_are_their_planar_ones(name: str) -> None:
    """Codes at the top of their words and chroma side by side change nothing, in any stage."""
    ours, planar = PixelFormat(name), PixelFormat(planar_name(av.VideoFormat(name, 53, 37)))
    planes = random_planes(ours, (37, 53), seed=1)
    words = [plane.numpy() for plane in planes]
    codes = [torch.from_numpy(plane >> ours.low_bits) for plane in words]
    assert torch.equal(reference.planes_to_rgb(planes, ours, Color()), reference.planes_to_rgb(codes, planar, Color()))
    for got, want in zip(
        reference.analyze(planes, ours, Color(), (16, 24)),
        reference.analyze(codes, planar, Color(), (16, 24)),
        strict=True,
    ):
        assert torch.equal(got, want)
    last = [plane.float() * 200 for plane in codes]
    clean = denoise.filter_planes(planes, last, ours, 0.5)
    assert all(map(torch.equal, clean, denoise.filter_planes(codes, last, planar, 0.5)))
    filtered, gain = [plane * 2.0 ** (ours.depth - 16) for plane in clean], reference.exponentiate(random_grid(1)[0], 1)
    for extra in (None, filtered):
        lifted = reference.apply_curves(planes, gain, ours, Color(), filtered=extra)
        wanted = reference.apply_curves(codes, gain, planar, Color(), filtered=extra)
        assert all(got.dtype == plane.dtype for got, plane in zip(lifted, planes, strict=True))
        for got, want in zip(lifted, wanted, strict=True):
            assert np.array_equal(got.numpy(), want.numpy() << ours.low_bits)


@colors
def test_grey_is_its_luma(color: Color) -> None:
    plane = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    rgb = reference.planes_to_rgb([plane], PixelFormat("gray"), color)
    offset, scale = (0, 255) if color.full_range else (16, 219)
    assert rgb.shape == (3, 16, 16)
    torch.testing.assert_close(rgb, ((plane.float() - offset) / scale).expand(3, 16, 16))
