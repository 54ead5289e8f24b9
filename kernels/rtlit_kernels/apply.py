"""Lift a frame in its own planes by the gain that each pixel finds in the grid.

    p' = p + M·(L − x),  L − x = (1 − x)·(1 − 1/(1 + x·F)),  F = gain(x, y, tone) − 1, x = R'G'B' clamped to 0 … 1

Reads and writes every code once: 24.9 MB of a 4K NV12 frame, 8.3 µs at 3 TB/s. Instructions bind before bytes
(README.md counts them), so that a pixel computes only what no other pixel shares:

- A program goes down a column of tiles, a row of chroma blocks after the other. Where its columns lie in the grid it
  computes once; and for each space between two rows of the grid, once, a band: for each cell and tone the value, the
  slopes across and along the tone, and the slope of the slope, at the upper row and what the lower one has more.
- From these it interpolates the table of each row of pixels. A pixel fetches four numbers a channel, 16 bytes at once,
  and interpolates by three multiply-adds. Bands and tables lie in the program's own piece of `scratch`, 24 KB that stay
  in L1. Up to 10 bits, slopes along the tone are counted from black, so that a tone needs no fractional part; that
  costs 3 bits of the gain's 24.
- What chroma adds to R', G', B' is the same in a whole block, and the brightest channel too: so a pixel's tone is one
  multiply-add. Chroma's matrix runs once a block, on the sums of the block's differences.
- Luma is loaded and stored as words that hold a row of a block, chroma of NV12 as one word, wherever rows begin at
  multiples of words; else code by code, by the same arithmetic.
- Codes become floats by bits (2^23 | code is the float 2^23 + code), floats codes by adding 2^23; clamping to 0 … 1 is
  part of a multiply-add. Codes are counted in units of max_code + ¼: what is clamped to 1 still rounds to max_code.

Offsets are 32-bit integers: the largest plane, 7680×4320 in 16 bits, has 2^26 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtlit_kernels.color import Color, PixelFormat, check_planes, code_matrix
from rtlit_kernels.instructions import (
    bias,
    decode,
    encode,
    excesses,
    inverse,
    join,
    load_four,
    saturated,
    split,
    store_four,
)
from rtlit_kernels.launch import INTERPRETED, ApplyLaunch, Variant, apply_launch
from rtlit_kernels.planes import as_pairs, as_words, check_filtered, empty_like, is_interleaved


@triton.jit
def _difference(x, excess, ASM: tl.constexpr):
    """L(x) − x."""
    w = 1.0 - x
    return tl.fma(-w, inverse(tl.fma(x, excess, 1.0), ASM), w)


@triton.jit
def _prepare(
    gain, bands, i, first_cell, grid_rows, grid_columns,
    K: tl.constexpr, D: tl.constexpr, CELLS: tl.constexpr, TONES: tl.constexpr, ABSOLUTE: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """What the table is at row i of the grid, and what it gains to row i + 1: [CELLS, TONES, 2, K, 4]."""
    entry = tl.arange(0, CELLS * TONES)
    d = tl.minimum(entry % TONES, D - 1)
    j = tl.minimum(first_cell + entry // TONES, grid_columns - 1)
    right = tl.where(j < grid_columns - 1, 1, 0)
    lighter = tl.where(d < D - 1, grid_rows * grid_columns, 0)
    down = tl.where(i < grid_rows - 1, grid_columns, 0)
    for k in tl.static_range(K):
        corner = gain + ((k * D + d) * grid_rows + i) * grid_columns + j
        value, across, along, both = _slopes(corner, right, lighter, d, D, ABSOLUTE)
        value_1, across_1, along_1, both_1 = _slopes(corner + down, right, lighter, d, D, ABSOLUTE)
        target = bands + entry * (8 * K) + 4 * k
        store_four(target, value - 1.0, across, along, both, ASM)
        store_four(target + 4 * K, value_1 - value, across_1 - across, along_1 - along, both_1 - both, ASM)


@triton.jit
def _slopes(corner, right, lighter, d, D: tl.constexpr, ABSOLUTE: tl.constexpr):
    value = tl.load(corner)
    across = tl.load(corner + right) - value
    along = tl.load(corner + lighter) - value
    both = tl.load(corner + lighter + right) - value - across - along
    if ABSOLUTE:
        tone = d.to(tl.float32)
        return value - along * tone, across - both * tone, along * (D - 1.0), both * (D - 1.0)
    return value, across, along, both


@triton.jit
def _tabulate(
    bands, table, row, first_row, height, row_scale, row_offset, last,
    K: tl.constexpr, ROWS: tl.constexpr, ENTRIES: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """The grid interpolated down to ROWS rows: [ROWS, CELLS, TONES, K, 4]."""
    entry = tl.arange(0, ROWS * ENTRIES)
    i, v = _down(tl.minimum(row + entry // ENTRIES, height - 1), row_scale, row_offset, last)
    band = bands + ((i - first_row) * ENTRIES + entry % ENTRIES) * (8 * K)
    table += entry * (4 * K)
    for k in tl.static_range(K):
        a, b, c, d = load_four(band + 4 * k, ASM)
        da, db, dc, dd = load_four(band + 4 * (k + K), ASM)
        store_four(table + 4 * k, tl.fma(v, da, a), tl.fma(v, db, b), tl.fma(v, dc, c), tl.fma(v, dd, d), ASM)


@triton.jit
def _down(y, scale, offset, last):
    """Between which two rows of the grid a row lies: the upper one, and the weight of the lower one."""
    at = tl.minimum(tl.maximum(tl.fma(tl.cast(y, tl.float32), scale, offset), 0.0), last)
    i = at.to(tl.int32)
    return i, at - i.to(tl.float32)


@triton.jit
def _apply_kernel(
    # inputs
    luma, blue, red, clean_luma, clean_blue, clean_red, gain,
    # outputs
    luma_out, blue_out, red_out, scratch,
    # shapes
    height, width, blocks, strips, depth, bands_a_program, grid_rows, grid_columns,
    luma_pitch, luma_step, chroma_pitch, chroma_step, luma_pitch_out, luma_step_out, chroma_pitch_out, chroma_step_out,
    clean_pitch, clean_chroma_pitch, colors, scale, peak, unit, cell_scale, cell_offset, cell_steps,
    row_scale, row_offset,
    CHANNELS: tl.constexpr, RGB: tl.constexpr, SHIFT_Y: tl.constexpr, SHIFT_X: tl.constexpr, ITEM: tl.constexpr,
    LOW_BITS: tl.constexpr, K: tl.constexpr, D: tl.constexpr, FILTERED: tl.constexpr, PACKED: tl.constexpr,
    INTERLEAVED: tl.constexpr, ABSOLUTE: tl.constexpr, ASM: tl.constexpr,
    # tunables
    BLOCK: tl.constexpr, CELLS: tl.constexpr, TONES: tl.constexpr,
):  # fmt: skip
    ROWS: tl.constexpr = 1 << SHIFT_Y
    COLUMNS: tl.constexpr = 1 << SHIFT_X
    WORDS: tl.constexpr = 1 if PACKED else COLUMNS  # a row of a block
    HELD: tl.constexpr = COLUMNS // WORDS  # codes a word
    ENTRIES: tl.constexpr = CELLS * TONES
    first_strip = tl.program_id(1) * depth
    last_strip = tl.minimum(first_strip + depth, strips)
    tile = tl.program_id(0)
    scratch += (tl.program_id(1) * tl.num_programs(0) + tile) * ((ROWS + 2 * bands_a_program) * ENTRIES * K * 4)
    bands = scratch + ROWS * ENTRIES * K * 4
    first_position = saturated((tile * BLOCK * COLUMNS).to(tl.float32), cell_scale, cell_offset, ASM)
    first_cell, _ = split(first_position, cell_steps, ASM)
    first_row = _down(first_strip * ROWS, row_scale, row_offset, grid_rows - 1.0)[0]
    last_row = _down(tl.minimum(last_strip * ROWS, height) - 1, row_scale, row_offset, grid_rows - 1.0)[0]
    for i in tl.range(first_row, last_row + 1, num_stages=1):
        band = bands + (i - first_row) * (ENTRIES * 8 * K)
        _prepare(gain, band, i, first_cell - bias(ASM), grid_rows, grid_columns, K, D, CELLS, TONES, ABSOLUTE, ASM)
    at = tile * BLOCK + tl.arange(0, BLOCK)
    inside = at < blocks
    first_x = (tl.minimum(at, blocks - 1) * COLUMNS).to(tl.float32)
    for strip in tl.range(first_strip, last_strip, num_stages=1):
        strip = tl.cast(strip, tl.int32)
        tl.debug_barrier()  # the bands are there, and the last strip's table has been read
        _tabulate(
            bands, scratch, strip * ROWS, first_row, height, row_scale, row_offset, grid_rows - 1.0,
            K, ROWS, ENTRIES, ASM,
        )  # fmt: skip
        tl.debug_barrier()
        # A block is read, its last row and column repeated, before any of it is written, which may be in place.
        words = ()
        for r in tl.static_range(ROWS):
            line = tl.minimum(strip * ROWS + r, height - 1)
            for c in tl.static_range(WORDS):
                column = at if PACKED else tl.minimum(at * COLUMNS + c, width - 1)
                words += (tl.load(luma + line * luma_pitch + column * luma_step, inside, other=0),)
        if CHANNELS == 3:
            if INTERLEAVED:
                pair = tl.load(blue + strip * chroma_pitch + at, inside, other=0)
                p1 = decode(pair, 0, scale, ITEM, LOW_BITS, ASM)
                p2 = decode(pair, 1, scale, ITEM, LOW_BITS, ASM)
            else:
                offset = strip * chroma_pitch + at * chroma_step
                p1 = decode(tl.load(blue + offset, inside, other=0), 0, scale, ITEM, LOW_BITS, ASM)
                p2 = decode(tl.load(red + offset, inside, other=0), 0, scale, ITEM, LOW_BITS, ASM)
            q1, q2 = p1, p2
            if FILTERED:
                offset = strip * clean_chroma_pitch + at
                q1 = tl.load(clean_blue + offset, inside, other=0).to(tl.float32) * unit
                q2 = tl.load(clean_red + offset, inside, other=0).to(tl.float32) * unit
            if not RGB:
                base_r = tl.fma(q2, colors[2], colors[3])
                base_g = tl.fma(q1, colors[5], tl.fma(q2, colors[6], colors[7]))
                base_b = tl.fma(q1, colors[9], colors[11])
                base = tl.maximum(tl.maximum(base_r, base_g), base_b)
        sum_r, sum_g, sum_b, sum_w = -0.0, -0.0, -0.0, -0.0  # unlike x + 0, which makes 0 of −0, x − 0 is left out
        for r in tl.static_range(ROWS):
            line = strip * ROWS + r
            for w in tl.static_range(WORDS):
                result = at
                for h in tl.static_range(HELD):
                    c = w * HELD + h
                    if PACKED:
                        offset_c = cell_offset + c * cell_scale
                        position = saturated(first_x, cell_scale, offset_c, ASM)
                    else:
                        x = tl.minimum(at * COLUMNS + c, width - 1)
                        position = saturated(x.to(tl.float32), cell_scale, cell_offset, ASM)
                    j, u = split(position, cell_steps, ASM)
                    p = decode(words[r * WORDS + w], h, scale, ITEM, LOW_BITS, ASM)
                    q = p
                    if FILTERED:
                        cleaned = clean_luma + tl.minimum(line, height - 1) * clean_pitch
                        cleaned += tl.minimum(at * COLUMNS + c, width - 1)
                        q = tl.load(cleaned, inside, other=0).to(tl.float32) * unit
                    if RGB:
                        red_x = saturated(q2, colors[2], colors[3], ASM)
                        green_x = saturated(q, colors[4], colors[7], ASM)
                        blue_x = saturated(q1, colors[9], colors[11], ASM)
                        tone = tl.maximum(tl.maximum(red_x, green_x), blue_x)
                    elif CHANNELS == 3:
                        red_x = saturated(q, colors[0], base_r, ASM)
                        green_x = saturated(q, colors[0], base_g, ASM)
                        blue_x = saturated(q, colors[0], base_b, ASM)
                        tone = saturated(q, colors[0], base, ASM)  # rounding keeps the order: the largest of the three
                    else:
                        tone = saturated(q, colors[0], colors[3], ASM)
                        red_x, green_x, blue_x = tone, tone, tone
                    d, f = split(tone, D - 1.0, ASM)
                    if ABSOLUTE:
                        f = tone
                    column = (j - first_cell) * TONES - bias(ASM)
                    excess_r, excess_g, excess_b = excesses(scratch, column, d, u, f, r * ENTRIES * K * 16, K, ASM)
                    diff_r = _difference(red_x, excess_r, ASM)
                    diff_g = _difference(green_x, excess_g, ASM)
                    diff_b = _difference(blue_x, excess_b, ASM)
                    sum_r, sum_g, sum_b = sum_r + diff_r, sum_g + diff_g, sum_b + diff_b
                    value = p
                    if FILTERED:
                        share = saturated(excess_r + excess_g + excess_b, 1 / 3, 0.0, ASM)
                        sum_w += share
                        value = tl.fma(share, q - p, p)
                    if RGB:
                        value = saturated(diff_g, colors[13], value, ASM)
                    else:
                        value = tl.fma(diff_r, colors[12], tl.fma(diff_g, colors[13], value))
                        value = saturated(diff_b, colors[14], value, ASM)
                    code = encode(value, peak)
                    result = code if h == 0 else join(result, code, ITEM, ASM)
                place = at if PACKED else at * COLUMNS + w
                keep = inside & (line + at * 0 < height)  # a vector: the interpreter can't join a scalar to a mask
                if not PACKED:
                    keep &= place < width
                target = luma_out + line * luma_pitch_out + place * luma_step_out
                tl.store(target, (result << LOW_BITS).to(luma_out.dtype.element_ty), keep)
        if CHANNELS == 3:
            if FILTERED:
                share = sum_w * (1.0 / (ROWS * COLUMNS))
                p1, p2 = tl.fma(share, q1 - p1, p1), tl.fma(share, q2 - p2, p2)
            if RGB:
                p1 = saturated(sum_b, colors[17], p1, ASM)
                p2 = saturated(sum_r, colors[18], p2, ASM)
            else:
                p1 = tl.fma(sum_r, colors[15], tl.fma(sum_g, colors[16], p1))
                p1 = saturated(sum_b, colors[17], p1, ASM)
                p2 = tl.fma(sum_g, colors[19], tl.fma(sum_b, colors[20], p2))
                p2 = saturated(sum_r, colors[18], p2, ASM)
            code1, code2 = encode(p1, peak), encode(p2, peak)
            if INTERLEAVED:
                pair = join(code1, code2, ITEM, ASM)
                target = blue_out + strip * chroma_pitch_out + at
                tl.store(target, (pair << LOW_BITS).to(blue_out.dtype.element_ty), inside)
            else:
                offset = strip * chroma_pitch_out + at * chroma_step_out
                tl.store(blue_out + offset, (code1 << LOW_BITS).to(blue_out.dtype.element_ty), inside)
                tl.store(red_out + offset, (code2 << LOW_BITS).to(red_out.dtype.element_ty), inside)


def apply_curves(
    planes: Sequence[Tensor],
    gain: Tensor,
    pixel_format: PixelFormat,
    color: Color,
    *,
    filtered: Sequence[Tensor] | None = None,
    out: Sequence[Tensor] | None = None,
    scratch: Tensor | None = None,
) -> list[Tensor]:
    """Lift a frame in its own planes; see `rtlit.reference.apply_curves`. Within one code of it.

    Fastest where rows begin at multiples of 16 bytes, columns are a multiple of 16 blocks, and NV12's chroma is views
    of one tensor.

    Args:
        planes: codes [rows, columns], uint8 at depth 8 and uint16 above, any strides.
        gain: f32 [K, D, GH, GW], contiguous; K = 3 or 1, D ≥ 2.
        filtered: planes without noise, contiguous columns: uint16, codes · 2^(16 − depth), as `filter_planes` leaves
            them, or float32 codes.
        out: planes like `planes`, or `planes` themselves.
        scratch: f32 [`scratch_size`]. Not to be shared by launches that may run at the same time.

    Returns:
        `out`.

    Raises:
        ValueError: shapes or types other than these.
    """
    height, width = check_planes(planes, pixel_format)
    device = planes[0].device
    if gain.ndim != 4 or gain.shape[0] not in (1, 3) or gain.shape[1] < 2 or not gain.is_contiguous():
        raise ValueError(f"gain of {list(gain.shape)}, {gain.stride() = }; expected [3 or 1, ≥ 2, GH, GW], contiguous")
    if gain.dtype != torch.float32 or gain.device != device:
        raise ValueError(f"gain is {gain.dtype} on {gain.device}; expected {torch.float32} on {device}")
    if out is None:
        out = empty_like(planes)
    elif check_planes(out, pixel_format) != (height, width):
        raise ValueError(f"out is of {tuple(out[0].shape)}; expected {(height, width)}")
    launch = apply_launch((height, width), gain.shape[1:], (pixel_format.shift_y, pixel_format.shift_x), device)
    needed = scratch_size((height, width), gain.shape, pixel_format, device)
    if scratch is None:
        scratch = torch.empty(needed, device=device)
    if scratch.numel() < needed or scratch.dtype != torch.float32 or scratch.device != device:
        raise ValueError(f"scratch of {scratch.numel()} {scratch.dtype} on {scratch.device}; expected {needed} f32")
    if scratch.data_ptr() % 16 or not scratch.is_contiguous():
        raise ValueError(f"scratch at {scratch.data_ptr():#x}, {scratch.stride() = }; expected contiguous at 16 bytes")

    packed, luma, luma_out = as_words(planes[0], out[0], 1 << pixel_format.shift_x)
    interleaved, chroma, chroma_out = False, [planes[0]] * 2, [out[0]] * 2
    if pixel_format.channels == 3:
        chroma, chroma_out = list(planes[1:]), list(out[1:])
        if all(map(is_interleaved, (planes, out))):
            pairs = [as_pairs(frame[1]) for frame in (planes, out)]
            interleaved, *both = as_words(pairs[0], pairs[1], 2)
            if interleaved:
                chroma, chroma_out = [both[0]] * 2, [both[1]] * 2
    clean = [planes[0]] * 3
    if filtered is not None:
        clean = [*check_filtered(filtered, planes), *[filtered[0]] * (3 - len(planes))]
    unit = 1.0 if clean[0].dtype == torch.float32 else 2.0 ** (pixel_format.depth - 16)
    peak = pixel_format.max_code + 0.25
    rows, columns = gain.shape[2:]
    steps = max(columns - 1, 1)
    blocks = -(-width >> pixel_format.shift_x)
    strips = -(-height >> pixel_format.shift_y)
    _apply_kernel[(-(-blocks // launch.block), -(-strips // launch.depth))](
        luma, *chroma, *clean, gain,
        luma_out, *chroma_out, scratch,
        height, width, blocks, strips, launch.depth, launch.bands, rows, columns,
        *luma.stride(), *chroma[0].stride(), *luma_out.stride(), *chroma_out[0].stride(),
        clean[0].stride(0), clean[1].stride(0), _colors(pixel_format, color, peak),
        1 / (peak * (1 << pixel_format.low_bits)), peak, unit / peak,
        columns / width / steps, (0.5 * columns / width - 0.5) / steps, float(columns - 1),
        rows / height, 0.5 * rows / height - 0.5,
        pixel_format.channels, color.to_rgb()[0][0] == 0, pixel_format.shift_y, pixel_format.shift_x,
        8 * planes[0].element_size(), pixel_format.low_bits, *gain.shape[:2], filtered is not None, packed, interleaved,
        pixel_format.depth <= 10, not INTERPRETED and torch.version.hip is None,
        **launch.blocks(), **launch.options(),
    )  # fmt: skip
    return list(out)


def scratch_size(
    size: tuple[int, int], grid: Sequence[int], pixel_format: PixelFormat, device: torch.device
) -> int:
    """Numbers of `apply_curves`'s scratch for a frame of (H, W) and a gain of (K, D, GH, GW)."""
    launch = apply_launch(size, grid[1:], (pixel_format.shift_y, pixel_format.shift_x), device)
    rows = (1 << pixel_format.shift_y) + 2 * launch.bands
    return launch.programs * launch.cells * launch.tones * grid[0] * 4 * rows


def _colors(pixel_format: PixelFormat, color: Color, peak: float) -> tuple[float, ...]:
    """The map from codes / peak to R'G'B', then that from sums of differences over a block to codes / peak."""
    forth = [row[:3] for row in code_matrix(pixel_format, color)]
    offsets = [row[3] for row in code_matrix(pixel_format, color)]
    (_, luma), (_, chroma) = color.scales(pixel_format.depth)
    chroma /= 1 << (pixel_format.shift_y + pixel_format.shift_x)
    back = [x * scale / peak for row, scale in zip(color.from_rgb(), (luma, chroma, chroma), strict=True) for x in row]
    return (*(x for row, last in zip(forth, offsets, strict=True) for x in (*(peak * a for a in row), last)), *back)


def _variant(name: str, word: str, chroma: str, **constants: object) -> Variant:
    """Variant of a 1080p frame of `word`s that are packed unless they are single codes."""
    launch = ApplyLaunch()
    interleaved = word == chroma
    pointers = "luma blue red clean_luma clean_blue clean_red gain luma_out blue_out red_out scratch".split()  # noqa: SIM905
    kinds = [word, chroma, chroma, word, word, word, "*fp32", word, chroma, chroma, "*fp32"]
    sizes = "height width blocks strips depth bands_a_program grid_rows grid_columns clean_pitch clean_chroma_pitch"
    pitches = ["luma_pitch", "chroma_pitch", "luma_pitch_out", "chroma_pitch_out"]
    scales = "scale peak unit cell_scale cell_offset cell_steps row_scale row_offset"
    constexprs = {
        **dict.fromkeys(("luma_step", "chroma_step", "luma_step_out", "chroma_step_out"), 1),
        **dict(CHANNELS=3, RGB=False, SHIFT_Y=1, SHIFT_X=1, ITEM=8, LOW_BITS=0, K=3, D=8, FILTERED=False),
        **dict(PACKED=True, INTERLEAVED=interleaved, ABSOLUTE=True, ASM=True),
        **launch.blocks(),
        **constants,
    }
    signature: dict[str, str | tuple[str, ...]] = {
        **dict(zip(pointers, kinds, strict=True)),
        **dict.fromkeys([*sizes.split(), *pitches], "i32"),
        "colors": ("fp32",) * 21,
        **dict.fromkeys(scales.split(), "fp32"),
    }
    divisible = (*pointers, *pitches, "width", "blocks")
    return Variant(name, _apply_kernel, signature, constexprs, launch, 128, divisible)


VARIANTS = [
    _variant("apply nv12", "*i16", "*i16"),
    _variant("apply yuv420p", "*i16", "*u8"),
    _variant("apply p010le", "*i32", "*i32", ITEM=16, LOW_BITS=6),
    _variant("apply yuv420p10le", "*i32", "*u16", ITEM=16),
]
