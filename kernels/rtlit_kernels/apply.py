"""Lift a frame in its own planes by the gain that each pixel finds in the grid.

    p' = p + M·(L − x),  L − x = (1 − x)·(1 − 1/(1 + x·F)),  F = gain(x, y, tone) − 1, x = R'G'B' clamped to 0 … 1

Reads and writes every code once: 24.9 MB of a 4K NV12 frame, 8.3 µs at 3 TB/s. Instructions bind before bytes
(README.md counts them), so that a pixel computes only what no other pixel shares:

- A program interpolates the grid down to its rows once, as a table in its own piece of `scratch`, which stays in L1: for
  each row, cell and tone the value, the slopes across and along the tone, and the slope of the slope. A pixel fetches four
  numbers a channel, 16 bytes at once, and interpolates by three multiply-adds. Programs are as many as fit on the device
  and loop, so that the tables stay small and are never written to device memory.
- What chroma adds to R', G', B' is the same in a whole block, and the brightest channel too: so a pixel's tone is one
  multiply-add. Chroma's matrix runs once a block, on the sums of the block's differences.
- Luma is loaded and stored as words that hold a row of a block, chroma of NV12 as one word, wherever rows begin at
  multiples of words; else code by code, by the same arithmetic.
- Integers become floats by bits (2^23 | code is 2^23 + code), floats integers by adding 2^23; clamping to 0 … 1 is part
  of a multiply-add. Codes are counted in units of max_code + ¼: what is clamped to 1 still rounds to max_code.

Offsets are 32-bit integers: the largest plane, 7680×4320 in 16 bits, has 2^26 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtlit_kernels.color import Color, PixelFormat, check_planes, code_matrix
from rtlit_kernels.launch import INTERPRETED, ApplyLaunch, Variant, apply_launch


@triton.jit
def _saturated(a, b, c, ASM: tl.constexpr):
    """a·b + c, clamped to 0 … 1."""
    if ASM:
        return tl.inline_asm_elementwise("fma.rn.sat.f32 $0, $1, $2, $3;", "=f,f,f,f", [a, b, c], tl.float32, True, 1)
    return tl.minimum(tl.maximum(a * b + c, 0.0), 1.0)


@triton.jit
def _inverse(x, ASM: tl.constexpr):
    """1 / x within 1 ulp; Triton's division takes four instructions, to allow for x beyond 2^126."""
    if ASM:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)
    return 1.0 / x


@triton.jit
def _split(x, steps, ASM: tl.constexpr):
    """Integer part of x·steps, 0 … 2^22, plus `_bias`; and the fractional part."""
    if ASM:
        magic = tl.inline_asm_elementwise(
            "fma.rm.f32 $0, $1, $2, 0f4B400000;", "=f,f,f", [x, steps], tl.float32, True, 1
        )  # fmt: skip
        return magic.to(tl.int32, bitcast=True), tl.fma(x, steps, 12582912.0 - magic)
    whole = tl.floor(x * steps)
    return whole.to(tl.int32), x * steps - whole


@triton.constexpr_function
def _bias(asm: bool) -> int:
    return 0x4B400000 if asm else 0


@triton.constexpr_function
def _unpack_asm(bits: int, item: int, at: int) -> str:
    """2^23 | code of each of the elements in a register."""
    starts = [(bits * n + item * at) // 8 for n in range(32 // bits)]
    selectors = [0x7440 + start if item == 8 else 0x7400 + start * 17 + 16 for start in starts]
    return " ".join(f"prmt.b32 ${n}, ${len(starts)}, 0x4B000000, {bytes};" for n, bytes in enumerate(selectors))


@triton.constexpr_function
def _unpack_constraints(bits: int) -> str:
    return "=&r," * (32 // bits) + "r"


@triton.jit
def _decode(words, at: tl.constexpr, scale, ITEM: tl.constexpr, LOW_BITS: tl.constexpr, ASM: tl.constexpr):
    """Number `at` of the codes of ITEM bits in each word, times `scale`."""
    if ASM:
        bits: tl.constexpr = words.dtype.primitive_bitwidth
        if LOW_BITS:
            words = words & ((0x10001 if bits == 32 else 1) * (0x10000 - (1 << LOW_BITS)) - (1 << 32 if bits == 32 else 0))
        number = tl.inline_asm_elementwise(
            _unpack_asm(bits, ITEM, at), _unpack_constraints(bits), [words], tl.int32, True, 32 // bits
        )  # fmt: skip
        # Exact: 2^23·scale is a number, and the product of a fused multiply-add isn't rounded.
        return tl.fma(number.to(tl.float32, bitcast=True), scale, -8388608.0 * scale)
    return ((words.to(tl.int32) >> (ITEM * at)) & ((1 << ITEM) - (1 << LOW_BITS))).to(tl.float32) * scale


@triton.jit
def _encode(value, peak):
    """A clamped value's code, in the low bits; there is more above them."""
    return (value * peak + 8388608.0).to(tl.int32, bitcast=True)


@triton.jit
def _join(first, second, ITEM: tl.constexpr, ASM: tl.constexpr):
    """Two words of ITEM bits as one."""
    if not ASM:
        word = (first & ((1 << ITEM) - 1)) | (second << ITEM)
    elif ITEM == 8:
        word = tl.inline_asm_elementwise(
            "{ .reg .b32 a, b; prmt.b32 a, $1, $3, 0x40; prmt.b32 b, $2, $4, 0x40; prmt.b32 $0, a, b, 0x5410; }",
            "=r,r,r,r,r", [first, second], tl.int16, True, 2,
        )  # fmt: skip
    else:
        word = tl.inline_asm_elementwise("prmt.b32 $0, $1, $2, 0x5410;", "=r,r,r", [first, second], tl.int32, True, 1)
    return word


@triton.jit
def _load_four(at, ASM: tl.constexpr):
    if ASM:
        return tl.inline_asm_elementwise(
            "ld.global.v4.f32 {$0, $1, $2, $3}, [$4];", "=f,=f,=f,=f,l", [at.to(tl.int64)],
            (tl.float32, tl.float32, tl.float32, tl.float32), False, 1,
        )  # fmt: skip
    return tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)


@triton.jit
def _store_four(at, a, b, c, d, ASM: tl.constexpr):
    if ASM:
        tl.inline_asm_elementwise(
            "st.global.v4.f32 [$1], {$2, $3, $4, $5}; mov.b32 $0, 0;", "=r,l,f,f,f,f", [at.to(tl.int64), a, b, c, d],
            tl.int32, False, 1,
        )  # fmt: skip
    else:
        tl.store(at, a)
        tl.store(at + 1, b)
        tl.store(at + 2, c)
        tl.store(at + 3, d)


@triton.constexpr_function
def _fetch_asm(k: int, row: int) -> str:
    """4·K adjacent numbers of the table, of row number `row`."""
    loads = " ".join(
        f"ld.global.v4.f32 {{${i}, ${i + 1}, ${i + 2}, ${i + 3}}}, [a+{row + 4 * i}];" for i in range(0, 4 * k, 4)
    )
    return f"{{ .reg .u32 o; .reg .u64 a; mad.lo.u32 o, ${4 * k}, {16 * k}, ${4 * k + 1}; cvt.u64.u32 a, o; add.u64 a, a, ${4 * k + 2}; {loads} }}"


@triton.constexpr_function
def _fetch_constraints(k: int) -> str:
    return "=&f," * (4 * k) + "r,r,l"


@triton.jit
def _excesses(table, column, d, u, f, ROW: tl.constexpr, K: tl.constexpr, ASM: tl.constexpr):
    """F = gain − 1 of each channel, between two cells and two tones."""
    if ASM:
        if K == 3:
            v0, x0, z0, b0, v1, x1, z1, b1, v2, x2, z2, b2 = tl.inline_asm_elementwise(
                _fetch_asm(3, ROW), _fetch_constraints(3), [d, column * (16 * K), table.to(tl.int64)],
                (tl.float32, tl.float32, tl.float32, tl.float32, tl.float32, tl.float32, tl.float32, tl.float32,
                 tl.float32, tl.float32, tl.float32, tl.float32), False, 1,
            )  # fmt: skip
        else:
            v0, x0, z0, b0 = tl.inline_asm_elementwise(
                _fetch_asm(1, ROW), _fetch_constraints(1), [d, column * (16 * K), table.to(tl.int64)],
                (tl.float32, tl.float32, tl.float32, tl.float32), False, 1,
            )  # fmt: skip
    else:
        at = table + ROW // 4 + (column + d) * (4 * K)
        v0, x0, z0, b0 = tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)
        if K == 3:
            v1, x1, z1, b1 = tl.load(at + 4), tl.load(at + 5), tl.load(at + 6), tl.load(at + 7)
            v2, x2, z2, b2 = tl.load(at + 8), tl.load(at + 9), tl.load(at + 10), tl.load(at + 11)
    r = tl.fma(f, tl.fma(u, b0, z0), tl.fma(u, x0, v0))
    if K == 1:
        return r, r, r
    return r, tl.fma(f, tl.fma(u, b1, z1), tl.fma(u, x1, v1)), tl.fma(f, tl.fma(u, b2, z2), tl.fma(u, x2, v2))


@triton.jit
def _difference(x, excess, ASM: tl.constexpr):
    """L(x) − x."""
    w = 1.0 - x
    return tl.fma(-w, _inverse(tl.fma(x, excess, 1.0), ASM), w)


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
        _store_four(target, value - 1.0, across, along, both, ASM)
        _store_four(target + 4 * K, value_1 - value, across_1 - across, along_1 - along, both_1 - both, ASM)


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
        a, b, c, d = _load_four(band + 4 * k, ASM)
        da, db, dc, dd = _load_four(band + 4 * (k + K), ASM)
        _store_four(table + 4 * k, tl.fma(v, da, a), tl.fma(v, db, b), tl.fma(v, dc, c), tl.fma(v, dd, d), ASM)


@triton.jit
def _down(y, scale, offset, last):
    """Between which two rows of the grid a row lies: the upper one, and the weight of the lower one."""
    at = tl.minimum(tl.maximum(y.to(tl.float32) * scale + offset, 0.0), last)
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
    clean_pitch, clean_chroma_pitch, colors, scale, peak, unit, cell_scale, cell_offset, cell_steps, row_scale, row_offset,
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
    first_position = _saturated((tile * BLOCK * COLUMNS).to(tl.float32), cell_scale, cell_offset, ASM)
    first_cell, _ = _split(first_position, cell_steps, ASM)
    first_row = _down(first_strip * ROWS, row_scale, row_offset, grid_rows - 1.0)[0]
    last_row = _down(tl.minimum(last_strip * ROWS, height) - 1, row_scale, row_offset, grid_rows - 1.0)[0]
    for i in tl.range(first_row, last_row + 1, num_stages=1):
        band = bands + (i - first_row) * (ENTRIES * 8 * K)
        _prepare(gain, band, i, first_cell - _bias(ASM), grid_rows, grid_columns, K, D, CELLS, TONES, ABSOLUTE, ASM)
    at = tile * BLOCK + tl.arange(0, BLOCK)
    inside = at < blocks
    first_x = (tl.minimum(at, blocks - 1) * COLUMNS).to(tl.float32)
    for strip in tl.range(first_strip, last_strip, num_stages=1):
        strip = tl.cast(strip, tl.int32)
        tl.debug_barrier()  # the bands are there, and the last strip's table has been read
        _tabulate(
            bands, scratch, strip * ROWS, first_row, height, row_scale, row_offset, grid_rows - 1.0, K, ROWS, ENTRIES, ASM
        )
        tl.debug_barrier()
        # All of a block is read before any of it is written, which may be in place, and repeats its last row and column.
        words = ()
        for r in tl.static_range(ROWS):
            line = tl.minimum(strip * ROWS + r, height - 1)
            for c in tl.static_range(WORDS):
                column = at if PACKED else tl.minimum(at * COLUMNS + c, width - 1) * luma_step
                words += (tl.load(luma + line * luma_pitch + column, inside, other=0),)
        if CHANNELS == 3:
            if INTERLEAVED:
                pair = tl.load(blue + strip * chroma_pitch + at, inside, other=0)
                p1 = _decode(pair, 0, scale, ITEM, LOW_BITS, ASM)
                p2 = _decode(pair, 1, scale, ITEM, LOW_BITS, ASM)
            else:
                offset = strip * chroma_pitch + at * chroma_step
                p1 = _decode(tl.load(blue + offset, inside, other=0), 0, scale, ITEM, LOW_BITS, ASM)
                p2 = _decode(tl.load(red + offset, inside, other=0), 0, scale, ITEM, LOW_BITS, ASM)
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
                        position = _saturated(first_x, cell_scale, offset_c, ASM)
                    else:
                        x = tl.minimum(at * COLUMNS + c, width - 1)
                        position = _saturated(x.to(tl.float32), cell_scale, cell_offset, ASM)
                    j, u = _split(position, cell_steps, ASM)
                    p = _decode(words[r * WORDS + w], h, scale, ITEM, LOW_BITS, ASM)
                    q = p
                    if FILTERED:
                        cleaned = clean_luma + tl.minimum(line, height - 1) * clean_pitch
                        cleaned += tl.minimum(at * COLUMNS + c, width - 1)
                        q = tl.load(cleaned, inside, other=0).to(tl.float32) * unit
                    if RGB:
                        red_x = _saturated(q2, colors[2], colors[3], ASM)
                        green_x = _saturated(q, colors[4], colors[7], ASM)
                        blue_x = _saturated(q1, colors[9], colors[11], ASM)
                        tone = tl.maximum(tl.maximum(red_x, green_x), blue_x)
                    elif CHANNELS == 3:
                        red_x = _saturated(q, colors[0], base_r, ASM)
                        green_x = _saturated(q, colors[0], base_g, ASM)
                        blue_x = _saturated(q, colors[0], base_b, ASM)
                        tone = _saturated(q, colors[0], base, ASM)  # rounding keeps the order: the largest of the three
                    else:
                        tone = _saturated(q, colors[0], colors[3], ASM)
                        red_x, green_x, blue_x = tone, tone, tone
                    d, f = _split(tone, D - 1.0, ASM)
                    if ABSOLUTE:
                        f = tone
                    column = (j - first_cell) * TONES - _bias(ASM)
                    excess_r, excess_g, excess_b = _excesses(scratch, column, d, u, f, r * ENTRIES * K * 16, K, ASM)
                    diff_r = _difference(red_x, excess_r, ASM)
                    diff_g = _difference(green_x, excess_g, ASM)
                    diff_b = _difference(blue_x, excess_b, ASM)
                    sum_r, sum_g, sum_b = sum_r + diff_r, sum_g + diff_g, sum_b + diff_b
                    value = p
                    if FILTERED:
                        share = _saturated(excess_r + excess_g + excess_b, 1 / 3, 0.0, ASM)
                        sum_w += share
                        value = tl.fma(share, q - p, p)
                    if RGB:
                        value = _saturated(diff_g, colors[13], value, ASM)
                    else:
                        value = tl.fma(diff_r, colors[12], tl.fma(diff_g, colors[13], value))
                        value = _saturated(diff_b, colors[14], value, ASM)
                    code = _encode(value, peak)
                    result = code if h == 0 else _join(result, code, ITEM, ASM)
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
                p1 = _saturated(sum_b, colors[17], p1, ASM)
                p2 = _saturated(sum_r, colors[18], p2, ASM)
            else:
                p1 = tl.fma(sum_r, colors[15], tl.fma(sum_g, colors[16], p1))
                p1 = _saturated(sum_b, colors[17], p1, ASM)
                p2 = tl.fma(sum_g, colors[19], tl.fma(sum_b, colors[20], p2))
                p2 = _saturated(sum_r, colors[18], p2, ASM)
            code1, code2 = _encode(p1, peak), _encode(p2, peak)
            if INTERLEAVED:
                pair = _join(code1, code2, ITEM, ASM)
                tl.store(blue_out + strip * chroma_pitch_out + at, (pair << LOW_BITS).to(blue_out.dtype.element_ty), inside)
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
        raise ValueError(f"gain of {list(gain.shape)}, strides {gain.stride()}; expected [3 or 1, ≥ 2, GH, GW], contiguous")
    if gain.dtype != torch.float32 or gain.device != device:
        raise ValueError(f"gain is {gain.dtype} on {gain.device}; expected {torch.float32} on {device}")
    if out is None:
        out = _empty_like(planes)
    elif check_planes(out, pixel_format) != (height, width):
        raise ValueError(f"out is of {tuple(out[0].shape)}; expected {(height, width)}")
    launch = apply_launch((height, width), gain.shape[1:], (pixel_format.shift_y, pixel_format.shift_x), device)
    needed = scratch_size((height, width), gain.shape, pixel_format, device)
    if scratch is None:
        scratch = torch.empty(needed, device=device)
    if scratch.numel() < needed or scratch.dtype != torch.float32 or scratch.device != device:
        raise ValueError(f"scratch of {scratch.numel()} {scratch.dtype} on {scratch.device}; expected {needed} f32")

    packed, luma, luma_out = _words(planes[0], out[0], 1 << pixel_format.shift_x)
    interleaved, chroma, chroma_out = False, [planes[0]] * 2, [out[0]] * 2
    if pixel_format.channels == 3:
        chroma, chroma_out = list(planes[1:]), list(out[1:])
        if all(map(_is_interleaved, (planes, out))):
            pairs = [_pairs(frame[1]) for frame in (planes, out)]
            interleaved, *both = _words(*pairs, 2)
            if interleaved:
                chroma, chroma_out = [both[0]] * 2, [both[1]] * 2
    clean = [planes[0]] * 3
    if filtered is not None:
        clean = [*_checked(filtered, planes), *[filtered[0]] * (3 - len(planes))]
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
    size: tuple[int, int], grid: tuple[int, int, int, int], pixel_format: PixelFormat, device: torch.device
) -> int:
    """Numbers of `apply_curves`'s scratch for a frame of (H, W) and a gain of (K, D, GH, GW)."""
    launch = apply_launch(size, grid[1:], (pixel_format.shift_y, pixel_format.shift_x), device)
    return launch.programs * (launch.cells * launch.tones * grid[0] * 4 * ((1 << pixel_format.shift_y) + 2 * launch.bands))


def _colors(pixel_format: PixelFormat, color: Color, peak: float) -> tuple[float, ...]:
    """The map from codes / peak to R'G'B', then that from sums of differences over a block to codes / peak."""
    forth = [row[:3] for row in code_matrix(pixel_format, color)]
    offsets = [row[3] for row in code_matrix(pixel_format, color)]
    (_, luma), (_, chroma) = color.scales(pixel_format.depth)
    chroma /= 1 << (pixel_format.shift_y + pixel_format.shift_x)
    back = [x * scale / peak for row, scale in zip(color.from_rgb(), (luma, chroma, chroma), strict=True) for x in row]
    return (*(x for row, last in zip(forth, offsets, strict=True) for x in (*(peak * a for a in row), last)), *back)


def _words(plane: Tensor, out: Tensor, count: int) -> tuple[bool, Tensor, Tensor]:
    """Whether words of `count` codes can be loaded and stored, and views of these if so."""
    size = count * plane.element_size()
    whole = all(
        tensor.stride(1) == 1 and not (tensor.shape[1] % count or tensor.stride(0) % count or tensor.data_ptr() % size)
        for tensor in (plane, out)
    )
    if count != 2 or not whole:
        return count == 1, plane, out
    dtype = torch.int16 if size == 2 else torch.int32
    return True, plane.view(dtype), out.view(dtype)


def _is_interleaved(planes: Sequence[Tensor]) -> bool:
    blue, red = planes[1:]
    return blue.stride() == red.stride() and blue.stride(1) == 2 and red.data_ptr() - blue.data_ptr() == blue.itemsize


def _pairs(blue: Tensor) -> Tensor:
    return blue.as_strided((blue.shape[0], 2 * blue.shape[1]), (blue.stride(0), 1))


def _empty_like(planes: Sequence[Tensor]) -> list[Tensor]:
    if len(planes) == 3 and _is_interleaved(planes):
        both = torch.empty(*planes[1].shape, 2, dtype=planes[1].dtype, device=planes[1].device)
        return [torch.empty_like(planes[0], memory_format=torch.contiguous_format), both[..., 0], both[..., 1]]
    return [torch.empty_like(plane, memory_format=torch.contiguous_format) for plane in planes]


def _checked(filtered: Sequence[Tensor], planes: Sequence[Tensor]) -> Sequence[Tensor]:
    kinds = {(plane.dtype, plane.device, plane.stride(1)) for plane in filtered}
    if [plane.shape for plane in filtered] != [plane.shape for plane in planes] or kinds - {
        (dtype, planes[0].device, 1) for dtype in (torch.uint16, torch.float32)
    } or len(kinds) != 1 or filtered[1:] and filtered[1].stride() != filtered[2].stride():
        raise ValueError(f"filtered planes of {kinds}")
    return filtered


def _variant(name: str, word: str, chroma: str, **constants: object) -> Variant:
    """Variant of a 1080p frame of `word`s that are packed unless they are single codes."""
    launch = ApplyLaunch()
    interleaved = word == chroma
    pointers = "luma blue red clean_luma clean_blue clean_red gain luma_out blue_out red_out scratch".split()
    kinds = [word, chroma, chroma, word, word, word, "*fp32", word, chroma, chroma, "*fp32"]
    integers = "height width blocks strips depth bands_a_program grid_rows grid_columns clean_pitch clean_chroma_pitch".split()
    pitches = ["luma_pitch", "chroma_pitch", "luma_pitch_out", "chroma_pitch_out"]
    constexprs = {
        **dict.fromkeys(("luma_step", "chroma_step", "luma_step_out", "chroma_step_out"), 1),
        **dict(CHANNELS=3, RGB=False, SHIFT_Y=1, SHIFT_X=1, ITEM=8, LOW_BITS=0, K=3, D=8, FILTERED=False),
        **dict(PACKED=True, INTERLEAVED=interleaved, ABSOLUTE=True, ASM=True),
        **launch.blocks(),
        **constants,
    }
    signature = {
        **dict(zip(pointers, kinds, strict=True)),
        **dict.fromkeys([*integers, *pitches], "i32"),
        "colors": ("fp32",) * 21,
        **dict.fromkeys("scale peak unit cell_scale cell_offset cell_steps row_scale row_offset".split(), "fp32"),
    }
    divisible = tuple(p for p in [*pointers, *pitches, "width", "blocks"])
    return Variant(name, _apply_kernel, signature, constexprs, launch, 128, divisible)


VARIANTS = [
    _variant("apply nv12", "*i16", "*i16"),
    _variant("apply yuv420p", "*i16", "*u8"),
    _variant("apply p010le", "*i32", "*i32", ITEM=16, LOW_BITS=6),
    _variant("apply yuv420p10le", "*i32", "*u16", ITEM=16),
]
