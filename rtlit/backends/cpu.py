"""CPU backend: `analyze` and `apply` as numba kernels on the frame's own planes.

`apply` has no gather. A pixel's gain between two neighbouring columns of cells is a sum over tone bins d of
hat(z − d)·((1 − u)·left[d] + u·right[d]): multiplications and additions alone, which LLVM vectorises. The grid is
interpolated down once a row, so that a row of a segment needs 2·3·D numbers. What is sliced is F = gain − 1, and
what is computed is the difference L − x = x·(1 − x)·F / (1 + x·F): exactly 0 where the gain is 1, and without
cancellation, since all hats are positive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from rtlit.backends.choose import Plane, check_size
from rtlit.frame import Color, PixelFormat
from rtlit.reference import HISTOGRAM_BINS

Function = TypeVar("Function", bound=Callable[..., Any])
Floats = NDArray[np.float32]

_LANES = 16  # pixels a pass of the inner loop: an AVX-512 register, two of AVX2
_STRIPS_PER_THREAD = 4  # a core that is busy with something else gets fewer


def _jit(function: Function) -> Function:
    # Without "reassoc" and "arcp", so that results don't hang on the vector width.
    options = {"nogil": True, "fastmath": {"contract", "nnan", "ninf", "nsz"}, "error_model": "numpy"}
    try:
        return cast(Function, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # neither the package's directory nor the user's cache directory can be written
        return cast(Function, numba.njit(**options)(function))


class CpuBackend:
    """`rtlit.backends.choose.Backend` on CPU threads; within one code value of `rtlit.reference`."""

    def __init__(self, threads: int) -> None:
        self.name = f"numba on {threads} CPU thread{'s' if threads > 1 else ''}"
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, "rtlit") if threads > 1 else None

    def analyze(
        self, planes: tuple[Plane, ...], pixel_format: PixelFormat, color: Color, size: tuple[int, int]
    ) -> tuple[Floats, Floats]:
        """See `rtlit.reference.analyze`."""
        height, width = planes[0].shape
        check_size(height, width)
        means = np.empty((len(planes), *size), np.float32)
        jobs = []
        for index, plane in enumerate(planes):
            shift_y, shift_x = (pixel_format.shift_y, pixel_format.shift_x) if index else (0, 0)
            rows = _edges(height / (1 << shift_y), size[0])
            columns = _edges(width / (1 << shift_x), size[1])
            source = _readable(plane)
            jobs += [(source, *plane.shape, rows, columns, means[index], *strip) for strip in self._strips(size[0])]
        self._run(_area_mean, jobs)
        return _thumbnail(means, pixel_format, color)

    def apply(
        self,
        planes: tuple[Plane, ...],
        gain: Floats,
        pixel_format: PixelFormat,
        color: Color,
        out: tuple[Plane, ...],
    ) -> None:
        """See `rtlit.reference.apply_curves`."""
        height, width = planes[0].shape
        sources = [_readable(plane) for plane in planes]
        targets = [_writable(plane) for plane in out]
        unused = sources[0][:0], targets[0][:0]
        while len(sources) < 3:
            sources.append(unused[0])
            targets.append(unused[1])
        table = _table(gain)
        cells_y, down, _ = _cells(height, table.shape[0])
        _, right, bounds = _cells(width, table.shape[1])
        (luma_offset, luma_scale), (chroma_offset, chroma_scale) = color.scales(pixel_format.depth)
        levels = (luma_offset, luma_scale, chroma_offset, chroma_scale, pixel_format.max_code)
        shared = (
            (height, width, pixel_format.plane_size(len(planes) - 1, height, width)[1]),
            (pixel_format.shift_y, pixel_format.shift_x, len(planes)),
            np.array(levels, np.float32),
            np.array(color.to_rgb(), np.float32),
            np.array(color.from_rgb(), np.float32),
            table,
            cells_y,
            down,
            bounds,
            right,
            (0.0,) * table.shape[3],
        )
        block_rows = -(-height >> pixel_format.shift_y)
        jobs = [(*sources, *targets, *shared, *strip) for strip in self._strips(block_rows)]
        self._run(_lift_blocks, jobs)
        for plane, target in zip(out, targets, strict=False):
            if not np.shares_memory(plane, target):
                plane[...] = target[: plane.shape[0], : plane.shape[1]]

    def _strips(self, rows: int) -> list[tuple[int, int]]:
        count = min(rows, self.threads * _STRIPS_PER_THREAD if self.threads > 1 else 1)
        cuts = [rows * i // count for i in range(count + 1)]
        return list(zip(cuts, cuts[1:], strict=False))

    def _run(self, kernel: Callable[..., None], jobs: Iterable[tuple[Any, ...]]) -> None:
        if self._pool is None:
            for job in jobs:
                kernel(*job)
            return
        for future in [self._pool.submit(kernel, *job) for job in jobs]:
            future.result()


def _readable(plane: Plane) -> Plane:
    """[rows, linesize]: with the padding it is contiguous, so LLVM knows that its columns are adjacent."""
    padded = _padded(plane)
    return as_strided(np.ascontiguousarray(plane) if padded is None else padded, writeable=False)


def _writable(plane: Plane) -> Plane:
    padded = _padded(plane)
    return np.empty(plane.shape, plane.dtype) if padded is None else padded


def _padded(plane: Plane) -> Plane | None:
    item = plane.itemsize
    pitch, rest = divmod(plane.strides[0], item)
    if plane.strides[1] != item or rest or pitch < plane.shape[1] or not plane.flags.aligned:
        return None
    return as_strided(plane, (plane.shape[0], pitch), (pitch * item, item))


def _thumbnail(means: Floats, pixel_format: PixelFormat, color: Color) -> tuple[Floats, Floats]:
    luma, chroma = color.scales(pixel_format.depth)
    if len(means) == 1:
        thumbnail = np.repeat((means - luma[0]) / luma[1], 3, 0)
    else:
        offset, scale = np.array([luma, chroma, chroma], np.float32).T[:, :, None, None]
        thumbnail = np.tensordot(np.array(color.to_rgb(), np.float32), (means - offset) / scale, 1)
    thumbnail = thumbnail.clip(0, 1).astype(np.float32, copy=False)
    index = np.minimum(thumbnail.max(0) * HISTOGRAM_BINS, HISTOGRAM_BINS - 1).astype(np.int64)
    counts = np.bincount(index.ravel(), minlength=HISTOGRAM_BINS)
    return thumbnail, (counts / index.size).astype(np.float32)


@lru_cache(64)
def _edges(extent: float, cells: int) -> NDArray[np.float64]:
    return np.arange(cells + 1) * (extent / cells)


@lru_cache(64)
def _cells(pixels: int, cells: int) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
    """Between which two cell centres every pixel of an axis lies.

    Returns:
        cell [pixels], the one before; weight [pixels + 16] in 0 … 1 of the one after; and bounds [cells], the
        first pixel of every cell's segment and the end of the last.
    """
    at = ((np.arange(pixels) + 0.5) * cells / pixels - 0.5).clip(0, cells - 1)
    cell = np.minimum(at.astype(np.int64), cells - 2)
    weight = np.append(at - cell, np.zeros(_LANES)).astype(np.float32)
    return cell, weight, np.searchsorted(cell, np.arange(cells))


def _table(gain: Floats) -> Floats:
    """F = gain − 1 of [K, D, GH, GW] as [GH, GW, 3, D], each side of the grid at least 2."""
    table = (gain - np.float32(1)).transpose(2, 3, 0, 1)
    height, width, channels, bins = table.shape
    table = np.repeat(np.repeat(table, 2 if height == 1 else 1, 0), 2 if width == 1 else 1, 1)
    return np.ascontiguousarray(np.broadcast_to(table, (*table.shape[:2], 3, bins)), np.float32)


@_jit
def _area_mean(plane, height, width, rows, columns, out, first, last):  # type: ignore[no-untyped-def]
    """Rows first … last of `rtlit.reference.area_weights`' mean of a plane, out [h, w] of code values."""
    line = np.empty(width, np.float32)
    for cell in range(first, last):
        top, bottom = rows[cell], min(rows[cell + 1], np.float64(height))
        line[:] = 0
        for y in range(int(top), min(int(np.ceil(bottom)), height)):
            weight = np.float32((min(bottom, y + 1.0) - max(top, float(y))) / (bottom - top))
            source = plane[y]
            for x in range(width):
                line[x] += weight * np.float32(source[x])
        for column in range(out.shape[1]):
            left, right = columns[column], min(columns[column + 1], np.float64(width))
            total = 0.0
            for x in range(int(left), min(int(np.ceil(right)), width)):
                total += line[x] * (min(right, x + 1.0) - max(left, float(x)))
            out[cell, column] = total / (right - left)


@_jit
def _lift_blocks(  # type: ignore[no-untyped-def]
    luma, blue, red, luma_out, blue_out, red_out,
    sizes, layout, levels, to_rgb, from_rgb,
    table, cells_y, down, bounds, right, bins, first, last,
):  # fmt: skip
    """Rows first … last of chroma samples, and the rows of luma samples that share them."""
    height, width, chroma_width = sizes
    shift_y, shift_x, channels = layout
    padded = (chroma_width << shift_x) + width + 16
    tone = np.zeros(padded, np.float32)
    base = np.zeros((3, padded), np.float32)
    difference, total = np.zeros_like(base), np.zeros_like(base)
    cells = np.empty(table.shape[1:], np.float32)
    for block in range(first, last):
        top, bottom = block << shift_y, min((block + 1) << shift_y, height)
        if channels == 3:
            _chroma_to_rgb(blue[block], red[block], base, chroma_width, shift_x, levels, to_rgb)
            total[:] = 0
        for y in range(top, bottom):
            source = luma[y]
            for x in range(width):
                tone[x] = (np.float32(source[x]) - levels[0]) / levels[1]
            _interpolate(table[cells_y[y]], table[cells_y[y] + 1], down[y], cells)
            for j in range(cells.shape[0] - 1):
                start, count = bounds[j], (bounds[j + 1] - bounds[j] + 15) // 16
                _lift_segment(
                    tone, base[0], base[1], base[2], right, difference[0], difference[1], difference[2],
                    cells, np.uint64(j), np.uint64(start), count, to_rgb[0, 0], to_rgb[1, 0], to_rgb[2, 0], bins,
                )  # fmt: skip
            _write_luma(source, difference, luma_out[y], width, levels, from_rgb)
            if channels == 3:
                # A block that reaches past the last row repeats it.
                repeats = 1 if y + 1 < height else 1 + ((block + 1) << shift_y) - height
                _add(difference, total, width, chroma_width << shift_x, np.float32(repeats))
        if channels == 3:
            _write_chroma(blue[block], total, blue_out[block], chroma_width, layout, levels, from_rgb[1])
            _write_chroma(red[block], total, red_out[block], chroma_width, layout, levels, from_rgb[2])


@_jit
def _lift_segment(  # type: ignore[no-untyped-def]
    tone, base_r, base_g, base_b, right, out_r, out_g, out_b,
    cells, j, start, count, mr, mg, mb, bins,
):  # fmt: skip
    """L − x of R', G', B' of `count`·16 pixels between two columns of cells.

    It may run over into the next segment, which is written afterwards. `len(bins)` is D as a constant of the
    compilation, so that the loop over d is unrolled and the one over pixels vectorised.
    """
    zero, one = np.float32(0), np.float32(1)
    for i in range(count * 16):
        x = start + np.uint64(i)
        r = min(max(mr * tone[x] + base_r[x], zero), one)
        g = min(max(mg * tone[x] + base_g[x], zero), one)
        b = min(max(mb * tone[x] + base_b[x], zero), one)
        z = max(r, max(g, b)) * np.float32(len(bins) - 1)
        r0 = r1 = g0 = g1 = b0 = b1 = zero
        rest = one
        for d in range(len(bins)):
            beyond = min(max(z - np.float32(d), zero), one)
            hat = rest - beyond
            rest = beyond
            r0 += hat * cells[j, 0, d]
            r1 += hat * cells[j + 1, 0, d]
            g0 += hat * cells[j, 1, d]
            g1 += hat * cells[j + 1, 1, d]
            b0 += hat * cells[j, 2, d]
            b1 += hat * cells[j + 1, 2, d]
        u = right[x]
        fr = r0 * (one - u) + r1 * u
        fg = g0 * (one - u) + g1 * u
        fb = b0 * (one - u) + b1 * u
        out_r[x] = r * (one - r) * fr / (one + r * fr)
        out_g[x] = g * (one - g) * fg / (one + g * fg)
        out_b[x] = b * (one - b) * fb / (one + b * fb)


@_jit
def _interpolate(above, below, weight, out):  # type: ignore[no-untyped-def]
    for j in range(out.shape[0]):
        for k in range(3):
            for d in range(out.shape[2]):
                out[j, k, d] = above[j, k, d] * (np.float32(1) - weight) + below[j, k, d] * weight


@_jit
def _chroma_to_rgb(blue, red, out, width, shift, levels, to_rgb):  # type: ignore[no-untyped-def]
    """What chroma adds to R', G', B', out [3, columns]; every sample serves its whole block."""
    for k in range(3):
        row, mb, mr = out[k], to_rgb[k, 1], to_rgb[k, 2]
        for i in range(width):
            cb = (np.float32(blue[i]) - levels[2]) / levels[3]
            cr = (np.float32(red[i]) - levels[2]) / levels[3]
            value = mb * cb + mr * cr
            if shift == 0:
                row[i] = value
            elif shift == 1:
                row[2 * i] = value
                row[2 * i + 1] = value
            else:
                row[4 * i : 4 * i + 4] = value


@_jit
def _add(difference, total, width, padded, repeats):  # type: ignore[no-untyped-def]
    for k in range(3):
        row, sums = difference[k], total[k]
        row[width:padded] = row[width - 1]  # a block that reaches past the last column repeats it
        for x in range(padded):
            sums[x] += repeats * row[x]


@_jit
def _write_luma(source, difference, out, width, levels, mix):  # type: ignore[no-untyped-def]
    dr, dg, db = difference[0], difference[1], difference[2]
    mr, mg, mb = mix[0, 0] * levels[1], mix[0, 1] * levels[1], mix[0, 2] * levels[1]
    for x in range(width):
        value = np.float32(source[x]) + (mr * dr[x] + mg * dg[x] + mb * db[x]) + np.float32(0.5)
        out[x] = np.int32(min(max(value, np.float32(0)), levels[4] + np.float32(0.5)))


@_jit
def _write_chroma(source, total, out, width, layout, levels, mix):  # type: ignore[no-untyped-def]
    shift = layout[1]
    scale = levels[3] / np.float32(1 << (layout[0] + shift))
    mr, mg, mb = mix[0] * scale, mix[1] * scale, mix[2] * scale
    tr, tg, tb = total[0], total[1], total[2]
    for i in range(width):
        if shift == 0:
            delta = mr * tr[i] + mg * tg[i] + mb * tb[i]
        elif shift == 1:
            delta = mr * (tr[2 * i] + tr[2 * i + 1]) + mg * (tg[2 * i] + tg[2 * i + 1]) + mb * (tb[2 * i] + tb[2 * i + 1])
        else:
            delta = np.float32(0)
            for x in range(4 * i, 4 * i + 4):
                delta += mr * tr[x] + mg * tg[x] + mb * tb[x]
        value = np.float32(source[i]) + delta + np.float32(0.5)
        out[i] = np.int32(min(max(value, np.float32(0)), levels[4] + np.float32(0.5)))
