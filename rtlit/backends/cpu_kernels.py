"""CPU kernels of `analyze` and `apply`, compiled by numba.

`apply` has no gather. A pixel's gain between two neighbouring columns of cells is a sum over tone bins d of
hat(z − d)·((1 − u)·left[d] + u·right[d]): multiplications and additions alone, which LLVM vectorises. The grid is
interpolated down once a row, so that a row of a segment needs 2·3·D numbers. What is sliced is F = gain − 1, and
what is computed is the difference L − x = x·(1 − x)·F / (1 + x·F): exactly 0 where the gain is 1, and without
cancellation, since all hats are positive.
"""
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])

LANES = 16  # pixels a pass of the inner loop: an AVX-512 register, two of AVX2

# Without "reassoc" and "arcp", so that results don't hang on the vector width.
_FLAGS = {"contract", "nnan", "ninf", "nsz"}


def _jit(function: Function) -> Function:
    try:
        compiled = numba.njit(cache=True, nogil=True, fastmath=_FLAGS, error_model="numpy")(function)
    except RuntimeError:  # neither the package's directory nor the user's cache directory can be written
        compiled = numba.njit(nogil=True, fastmath=_FLAGS, error_model="numpy")(function)
    return cast(Function, compiled)


@_jit
def area_mean(plane, height, width, rows, columns, out, first, last):
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
def lift_blocks(
    luma, blue, red, luma_out, blue_out, red_out,
    sizes, layout, levels, to_rgb, from_rgb,
    table, cells_y, down, bounds, right, bins, first, last,
):  # fmt: skip
    """Rows first … last of chroma samples, and the rows of luma samples that share them."""
    height, width, chroma_width = sizes
    shift_y, shift_x, channels = layout
    padded = (chroma_width << shift_x) + width + LANES
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
                start, count = bounds[j], (bounds[j + 1] - bounds[j] + LANES - 1) // LANES
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
def _lift_segment(
    tone, base_r, base_g, base_b, right, out_r, out_g, out_b,
    cells, j, start, count, mr, mg, mb, bins,
):  # fmt: skip
    """L − x of R', G', B' of `count`·LANES pixels between two columns of cells.

    It may run over into the next segment, which is written afterwards. `len(bins)` is D as a constant of the
    compilation, so that the loop over d is unrolled and the one over pixels vectorised.
    """
    zero, one = np.float32(0), np.float32(1)
    for i in range(count * LANES):
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
def _interpolate(above, below, weight, out):
    for j in range(out.shape[0]):
        for k in range(3):
            for d in range(out.shape[2]):
                out[j, k, d] = above[j, k, d] * (np.float32(1) - weight) + below[j, k, d] * weight


@_jit
def _chroma_to_rgb(blue, red, out, width, shift, levels, to_rgb):
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
def _add(difference, total, width, padded, repeats):
    for k in range(3):
        row, sums = difference[k], total[k]
        row[width:padded] = row[width - 1]  # a block that reaches past the last column repeats it
        for x in range(padded):
            sums[x] += repeats * row[x]


@_jit
def _write_luma(source, difference, out, width, levels, mix):
    dr, dg, db = difference[0], difference[1], difference[2]
    mr, mg, mb = mix[0, 0] * levels[1], mix[0, 1] * levels[1], mix[0, 2] * levels[1]
    for x in range(width):
        value = np.float32(source[x]) + (mr * dr[x] + mg * dg[x] + mb * db[x]) + np.float32(0.5)
        out[x] = np.int32(min(max(value, np.float32(0)), levels[4] + np.float32(0.5)))


@_jit
def _write_chroma(source, total, out, width, layout, levels, mix):
    shift = layout[1]
    scale = levels[3] / np.float32(1 << (layout[0] + shift))
    mr, mg, mb = mix[0] * scale, mix[1] * scale, mix[2] * scale
    tr, tg, tb = total[0], total[1], total[2]
    for i in range(width):
        if shift == 0:
            delta = mr * tr[i] + mg * tg[i] + mb * tb[i]
        elif shift == 1:
            x = 2 * i
            delta = mr * (tr[x] + tr[x + 1]) + mg * (tg[x] + tg[x + 1]) + mb * (tb[x] + tb[x + 1])
        else:
            delta = np.float32(0)
            for x in range(4 * i, 4 * i + 4):
                delta += mr * tr[x] + mg * tg[x] + mb * tb[x]
        value = np.float32(source[i]) + delta + np.float32(0.5)
        out[i] = np.int32(min(max(value, np.float32(0)), levels[4] + np.float32(0.5)))
