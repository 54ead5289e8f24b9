"""CPU kernels of `analyze` and `apply`, compiled by numba.

`apply` has no gather. A pixel's gain between two neighbouring columns of cells is a function of its tone z that is
linear from bin to bin. Groups of neighbouring pixels whose tones lie within two intervals take a value and two slopes
from there; the others sum hat(z − d) times the cell over all bins. Multiplications and additions alone, which LLVM
vectorises. The grid is interpolated down once a row. What is sliced is F = gain − 1, and what is computed is the
difference L − x = x·(1 − x)·F / (1 + x·F): exactly 0 where the gain is 1.

Traps: an index that isn't np.uint64 may be negative, which stops vectorisation; so does a loop over many arrays, which
must be shown not to overlap each time it starts. What one pixel needs therefore lies in one array, `_SPAN` apart.
"""
# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])

LANES = 16  # pixels a pass of the inner loop: an AVX-512 register, two of AVX2
_SPAN = 17 * LANES  # pixels that are worked on at a time; not a power of 2, which would put rows 4 KiB apart
_G, _B, _Z, _U = (np.uint64(row * _SPAN) for row in range(1, 5))

# Without "reassoc" and "arcp", so that results don't hang on the vector width.
_FLAGS = {"contract", "nnan", "ninf", "nsz"}


def _jit(function: Function) -> Function:
    try:
        compiled = numba.njit(cache=True, nogil=True, fastmath=_FLAGS, error_model="numpy")(function)
    except RuntimeError:  # neither the package's directory nor the user's cache directory can be written
        compiled = numba.njit(nogil=True, fastmath=_FLAGS, error_model="numpy")(function)
    return cast(Function, compiled)


def _inlined(function: Function) -> Function:
    return cast(Function, numba.njit(nogil=True, fastmath=_FLAGS, error_model="numpy", forceinline=True)(function))


@_jit
def area_mean(plane, height, width, rows, columns, out, first, last):
    """Rows first … last of `rtlit.reference.area_weights`' mean of a plane, out [h, w] of code values."""
    line = np.empty(width, np.float32)
    for cell in range(first, last):
        top, bottom = rows[cell], min(rows[cell + 1], np.float64(height))
        line[:] = 0
        for y in range(int(top), min(int(np.ceil(bottom)), height), 4):
            _add_rows(plane, y, top, bottom, height, line)
        for column in range(out.shape[1]):
            left, right = columns[column], min(columns[column + 1], np.float64(width))
            out[cell, column] = _integral(line, left, right) / (right - left)


@_jit
def _add_rows(plane, y, top, bottom, height, line):
    """The mean's share of four rows, of weight 0 below the cell, to a line of sums."""
    w0, w1, w2, w3 = (
        _share(y, top, bottom),
        _share(y + 1, top, bottom),
        _share(y + 2, top, bottom),
        _share(y + 3, top, bottom),
    )
    end = height - 1
    s0, s1, s2, s3 = plane[y], plane[min(y + 1, end)], plane[min(y + 2, end)], plane[min(y + 3, end)]
    for x in range(line.shape[0]):
        upper = w0 * np.float32(s0[x]) + w1 * np.float32(s1[x])
        line[x] += upper + (w2 * np.float32(s2[x]) + w3 * np.float32(s3[x]))


@_jit
def _share(y, top, bottom):
    return np.float32(max(min(bottom, y + 1.0) - max(top, np.float64(y)), 0.0) / (bottom - top))


@_jit
def _integral(line, left, right):
    """Sum of the samples between two places, parts of the outermost included."""
    begin, end = int(left), min(int(np.ceil(right)), line.shape[0])
    sums = (0.0, 0.0, 0.0, 0.0)
    for x in range(begin, end - 3, 4):  # four sums, since one would wait for each addition
        at = np.uint64(x)
        a, b, c, d = sums
        sums = (
            a + line[at], b + line[at + np.uint64(1)], c + line[at + np.uint64(2)], d + line[at + np.uint64(3)],
        )  # fmt: skip
    total = (sums[0] + sums[1]) + (sums[2] + sums[3])
    for x in range(end - (end - begin) % 4, end):
        total += line[np.uint64(x)]
    return total - (left - begin) * line[np.uint64(begin)] - (end - right) * line[np.uint64(end - 1)]


@_jit
def lift_blocks(
    luma, blue, red, clean, luma_out, blue_out, red_out,
    sizes, layout, levels, tone_levels, to_rgb, from_rgb,
    table, cells_y, down, bounds, right, bins, first, last,
):  # fmt: skip
    """Rows first … last of chroma samples, and the rows of luma samples that share them.

    `clean` are the planes to lift in place of the frame's own, or None: numba compiles without what asks for them then,
    which takes two seconds less. `tone_levels` are `levels` in the unit of what is lifted.
    """
    height, width, chroma_width = sizes
    shift_y, shift_x, channels, lanes = layout
    padded = (chroma_width << shift_x) + width + LANES
    base = np.empty((3, padded), np.float32)
    for k in range(3):
        base[k] = -to_rgb[k, 0] * levels[0] / levels[1]
    totals = np.zeros((2, 4, padded), np.float32)
    tones, mixed = np.zeros(padded, np.uint16), np.empty(padded, np.float32)
    unit = levels[1] / tone_levels[1]
    source, line = np.zeros(padded, luma.dtype), np.empty(padded, luma.dtype)
    cells = np.empty(table.shape[1], np.float32)
    pixels = np.empty(5 * _SPAN, np.float32)
    lowest = np.empty(_SPAN // LANES, np.int32)
    peak = tone_levels[1]
    scale_r, scale_g, scale_b = to_rgb[0, 0] / peak, to_rgb[1, 0] / peak, to_rgb[2, 0] / peak
    totalled = 0 if channels == 1 else 3
    if clean is not None and channels == 3:
        totalled = 4
    for block in range(first, last):
        top, bottom = block << shift_y, min((block + 1) << shift_y, height)
        if channels == 3:
            if clean is not None:
                _chroma_to_rgb(clean[1][block], clean[2][block], base, chroma_width, shift_x, tone_levels, to_rgb)
            else:
                _chroma_to_rgb(blue[block], red[block], base, chroma_width, shift_x, levels, to_rgb)
        totals[0] = 0
        for y in range(top, bottom):
            before, after = totals[(y - top) & 1], totals[(y - top + 1) & 1]
            _copy(luma[y], source, width)  # what is worked on runs over its end
            if clean is not None:
                _copy(clean[0][y], tones, width)
            # A block that reaches past the last row repeats it.
            repeats = 1 if y + 1 < height else 1 + ((block + 1) << shift_y) - height
            _interpolate(table[cells_y[y]], table[cells_y[y] + 1], down[y], cells)
            for j in range(bounds.shape[0] - 1):
                for start in range(bounds[j], bounds[j + 1], _SPAN):
                    # It may run over into the next, which is written afterwards.
                    count = (min(bounds[j + 1] - start, _SPAN) + LANES - 1) // LANES * LANES
                    scales = (scale_r, scale_g, scale_b)
                    if clean is not None:
                        _gather_tones(tones, base[0], base[1], base[2], right, pixels, start, count, scales, bins)
                    else:
                        _gather_tones(source, base[0], base[1], base[2], right, pixels, start, count, scales, bins)
                    _classify(pixels, lowest, count, lanes, bins)
                    _lift(pixels, cells, j, count, lowest, bins)
                    if clean is not None:
                        _mix_luma(pixels, source, tones, mixed, start, count, unit)
                        _add_luma(pixels, mixed, line, start, count, levels, from_rgb)
                    else:
                        _add_luma(pixels, source, line, start, count, levels, from_rgb)
                    for k in range(totalled):
                        _accumulate(pixels, k * _SPAN, before[k], after[k], start, count, np.float32(repeats))
            _copy(line, luma_out[y], width)
        if channels == 3:
            total = totals[(bottom - top) & 1]
            for k in range(totalled):  # a block that reaches past the last column repeats it
                total[k, width : chroma_width << shift_x] = total[k, width - 1]
            if clean is not None:
                _mix_chroma(blue[block], clean[1][block], total[3], mixed, chroma_width, layout, unit)
                _write_chroma(mixed, total, blue_out[block], chroma_width, layout, levels, from_rgb[1])
                _mix_chroma(red[block], clean[2][block], total[3], mixed, chroma_width, layout, unit)
                _write_chroma(mixed, total, red_out[block], chroma_width, layout, levels, from_rgb[2])
            else:
                _write_chroma(blue[block], total, blue_out[block], chroma_width, layout, levels, from_rgb[1])
                _write_chroma(red[block], total, red_out[block], chroma_width, layout, levels, from_rgb[2])


@_jit
def _gather_tones(source, base_r, base_g, base_b, right, pixels, start, count, scales, bins):
    """R', G', B', z and u of `count` pixels."""
    scale_r, scale_g, scale_b = scales
    zero, one = np.float32(0), np.float32(1)
    for i in range(count):
        at, x = np.uint64(i), np.uint64(start + i)
        value = np.float32(source[x])
        r = min(max(scale_r * value + base_r[x], zero), one)
        g = min(max(scale_g * value + base_g[x], zero), one)
        b = min(max(scale_b * value + base_b[x], zero), one)
        pixels[at] = r
        pixels[at + _G] = g
        pixels[at + _B] = b
        pixels[at + _Z] = max(r, max(g, b)) * np.float32(len(bins) - 1)
        pixels[at + _U] = right[x]


@_jit
def _classify(pixels, lowest, count, lanes, bins):
    """The bin from which on a group of pixels needs two intervals, or −1: more than two.

    `lanes` is LANES, but no constant: LLVM would unroll the loop and then vectorise over groups, with gathers.
    """
    for group in range(count // LANES):
        low, high = np.int32(1 << 30), np.int32(0)
        for i in range(lanes):
            bin = np.int32(pixels[np.uint64(group * LANES + i) + _Z])
            low, high = min(low, bin), max(high, bin)
        low = min(low, np.int32(len(bins) - 3))
        lowest[np.uint64(group)] = low if high <= low + 1 else np.int32(-1)


@_jit
def _lift(pixels, cells, j, count, lowest, bins):
    """L − x in place of R', G', B' and the weight of the clean planes in place of z, LANES pixels at a time."""
    row = j * 12 * len(bins)
    for group in range(count // LANES):
        low = lowest[np.uint64(group)]
        if low >= 0:
            _lift_near(pixels, cells, group * LANES, row + low, np.float32(low), bins)
        else:
            _lift_any(pixels, cells, group * LANES, row, bins)


@_inlined
def _lift_near(pixels, cells, at, row, low, bins):
    """Tones within two intervals from bin `low` on: a value and two slopes."""
    for i in range(LANES):
        x = np.uint64(at + i)
        z, u = pixels[x + _Z] - low, pixels[x + _U]
        lower = min(z, np.float32(1))
        upper = z - lower
        fr = _bent(cells, row, u, lower, upper, bins)
        fg = _bent(cells, row + 4 * len(bins), u, lower, upper, bins)
        fb = _bent(cells, row + 8 * len(bins), u, lower, upper, bins)
        _differ(pixels, x, fr, fg, fb)


@_inlined
def _bent(cells, at, u, lower, upper, bins):
    slope, right, turn = at + len(bins), at + 2 * len(bins), at + 3 * len(bins)
    value = cells[np.uint64(at)] + u * cells[np.uint64(right)]
    value += lower * (cells[np.uint64(slope)] + u * cells[np.uint64(turn)])
    return value + upper * (cells[np.uint64(slope + 1)] + u * cells[np.uint64(turn + 1)])


@_inlined
def _lift_any(pixels, cells, at, row, bins):
    """A tuple's length is a constant of the compilation: so d is unrolled and pixels vectorised."""
    zero, one = np.float32(0), np.float32(1)
    for i in range(LANES):
        x = np.uint64(at + i)
        z, u = pixels[x + _Z], pixels[x + _U]
        r0 = r1 = g0 = g1 = b0 = b1 = zero
        rest = one
        for d in range(len(bins)):
            beyond = min(max(z - np.float32(d), zero), one)
            hat = rest - beyond
            rest = beyond
            r0 += hat * cells[np.uint64(row + d)]
            r1 += hat * cells[np.uint64(row + 2 * len(bins) + d)]
            g0 += hat * cells[np.uint64(row + 4 * len(bins) + d)]
            g1 += hat * cells[np.uint64(row + 6 * len(bins) + d)]
            b0 += hat * cells[np.uint64(row + 8 * len(bins) + d)]
            b1 += hat * cells[np.uint64(row + 10 * len(bins) + d)]
        _differ(pixels, x, r0 + u * r1, g0 + u * g1, b0 + u * b1)


@_inlined
def _differ(pixels, x, fr, fg, fb):
    """L − x in place of a pixel's R', G', B', with one division for the three; the mean of F in place of z."""
    one = np.float32(1)
    pixels[x + _Z] = min(max((fr + fg + fb) * np.float32(1 / 3), np.float32(0)), one)
    r, g, b = pixels[x], pixels[x + _G], pixels[x + _B]
    under_r, under_g, under_b = one + r * fr, one + g * fg, one + b * fb
    both = under_r * under_g
    shared = one / (both * under_b)
    inverse = shared * under_b
    pixels[x] = r * (one - r) * fr * (inverse * under_g)
    pixels[x + _G] = g * (one - g) * fg * (inverse * under_r)
    pixels[x + _B] = b * (one - b) * fb * (shared * both)


@_jit
def _mix_luma(pixels, source, tones, mixed, start, count, unit):
    """Codes of the frame, moved towards the clean ones by their weight."""
    for i in range(count):
        at, x = np.uint64(i), np.uint64(start + i)
        value = np.float32(source[x])
        mixed[x] = value + pixels[at + _Z] * (np.float32(tones[x]) * unit - value)


@_jit
def _mix_chroma(source, clean, weights, mixed, width, layout, unit):
    """The same for a row of chroma, by the sum of the weights of a block's columns and rows."""
    shift = layout[1]
    share = np.float32(1) / np.float32(1 << (layout[0] + shift))
    for i in range(width):
        weight = np.float32(0)
        for x in range(i << shift, (i + 1) << shift):
            weight += weights[x]
        value = np.float32(source[i])
        mixed[i] = value + weight * share * (np.float32(clean[i]) * unit - value)


@_jit
def _add_luma(pixels, source, out, start, count, levels, mix):
    mr, mg, mb = mix[0, 0] * levels[1], mix[0, 1] * levels[1], mix[0, 2] * levels[1]
    zero, top = np.float32(0), levels[4] + np.float32(0.5)
    for i in range(count):
        at, x = np.uint64(i), np.uint64(start + i)
        value = mr * pixels[at] + mg * pixels[at + _G] + mb * pixels[at + _B]
        value += np.float32(source[x]) + np.float32(0.5)
        out[x] = np.int32(min(max(value, zero), top))


@_jit
def _copy(line, out, width):
    for x in range(width):  # a slice would take nearly 2 s longer to compile
        out[x] = line[x]


@_jit
def _accumulate(pixels, row, before, after, start, count, repeats):
    for i in range(count):
        x = np.uint64(start + i)
        after[x] = before[x] + repeats * pixels[np.uint64(row + i)]


@_jit
def _interpolate(above, below, weight, out):
    for i in range(out.shape[0]):
        out[i] = above[i] * (np.float32(1) - weight) + below[i] * weight


@_jit
def _chroma_to_rgb(blue, red, out, width, shift, levels, to_rgb):
    """What chroma adds to R', G', B', out [3, columns]; every sample serves its whole block."""
    for k in range(3):
        row, mb, mr = out[k], to_rgb[k, 1] / levels[3], to_rgb[k, 2] / levels[3]
        offset = -levels[2] * (mb + mr) - to_rgb[k, 0] * levels[0] / levels[1]
        for i in range(width):
            value = mb * np.float32(blue[i]) + (mr * np.float32(red[i]) + offset)
            if shift == 0:
                row[i] = value
            elif shift == 1:
                row[2 * i] = value
                row[2 * i + 1] = value
            else:
                row[4 * i : 4 * i + 4] = value


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


@_jit
def filter_rows(plane, state, out, scalars, first, last):
    """Rows first … last of `rtlit.denoise.filter_planes`; sums over five rows roll down from row to row."""
    height, width = out.shape
    end = height - 1
    sums, sizes = np.zeros(width + 4, np.float32), np.zeros(width + 4, np.float32)
    for y in range(first - 2, first + 3):
        row = min(max(y, 0), end)
        _add_differences(plane[row], state[row], sums, sizes, width, scalars[0], np.float32(1))
    for y in range(first, last):
        for line in (sums, sizes):
            line[0] = line[1] = line[2]
            line[width + 2] = line[width + 3] = line[width + 1]
        _follow(plane[y], state[y], out[y], sums, sizes, width, scalars)
        if y + 1 < last:
            below, above = min(y + 3, end), max(y - 2, 0)
            _add_differences(plane[below], state[below], sums, sizes, width, scalars[0], np.float32(1))
            _add_differences(plane[above], state[above], sums, sizes, width, scalars[0], np.float32(-1))


@_jit
def _add_differences(plane, state, sums, sizes, width, scale, sign):
    for x in range(width):
        at = np.uint64(x)
        difference = np.float32(plane[at]) * scale - np.float32(state[at])
        sums[at + np.uint64(2)] += sign * difference
        sizes[at + np.uint64(2)] += sign * abs(difference)


@_jit
def _follow(plane, state, out, sums, sizes, width, scalars):
    scale, per_pixel, per_sum, per_size, kept = scalars[0], scalars[1], scalars[2], scalars[3], scalars[4]
    zero, one = np.float32(0), np.float32(1)
    for x in range(width):
        at = np.uint64(x)
        before = np.float32(state[at])
        difference = np.float32(plane[at]) * scale - before
        moved = max(abs(difference) * per_pixel, abs(_five(sums, at)) * per_sum)
        moved = max(moved, _five(sizes, at) * per_size) - one
        weight = one - kept * (one - min(max(moved, zero), one))
        out[at] = np.int32(before + weight * difference + np.float32(0.5))


@_inlined
def _five(line, at):
    total = line[at] + line[at + np.uint64(1)] + line[at + np.uint64(2)]
    return total + (line[at + np.uint64(3)] + line[at + np.uint64(4)])
