"""Temporal filter of a video's planes; what `rtlit.denoise.filter_planes` specifies.

    d = x − S,   q = max(|d| / (3σ), |Σ d| / (2·5σ), Σ|d| / (1.2·25σ)) − 1, clamped to 0 … 1,   Σ over 5×5 pixels
    S' = S + (1 − KEPT·(1 − q))·d,   x and S in 16-bit fixed point

Moves x, S and S' once: 15.6 MB of a 1080p NV12 frame, 5.2 µs at 3 TB/s. All planes in one launch.

A program has a column of pixels to a thread and goes down ROWS + 4 rows. In each it loads five neighbours (from L1, but
for one) and adds up d and |d|; five such sums make those of 5×5. Sums are of integers, so exact in any order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtlit_kernels.color import PixelFormat, check_planes
from rtlit_kernels.launch import Variant, filter_launch

BITS = 16
KEPT = 5 / 6
PIXEL_LIMIT, SUM_LIMIT, SIZE_LIMIT = 3.0, 2.0, 1.2
MAX_NOISE = 4.0
CHROMA_NOISE = 0.6


@triton.jit
def _pick(values, plane, CHANNELS: tl.constexpr):
    """The plane's own of a value for each."""
    # One return: Triton compiles what follows a return, too.
    return values[0] if CHANNELS == 1 else tl.where(plane == 0, values[0], tl.where(plane == 1, values[1], values[2]))


@triton.jit
def _row(plane, last, samples, offsets, SCALE: tl.constexpr, LOW_BITS: tl.constexpr):
    """Of a row: d, S, and the sums of d and of |d| over five columns, which lie at `samples` and at `offsets`."""
    old = tl.load(last + offsets[2]).to(tl.int32)
    centre = (tl.load(plane + samples[2]).to(tl.int32) >> LOW_BITS) * SCALE - old
    total, size = centre, tl.abs(centre)
    for i in tl.static_range(5):
        if i != 2:
            word = tl.load(plane + samples[i]).to(tl.int32)
            difference = (word >> LOW_BITS) * SCALE - tl.load(last + offsets[i]).to(tl.int32)
            total += difference
            size += tl.abs(difference)
    return centre, old, total, size


@triton.jit
def _filter_kernel(
    # inputs
    planes, last, fresh, per_pixel, per_sum, per_size,
    # outputs
    out,
    # shapes
    luma_rows, luma_columns, chroma_rows, chroma_columns, pitches, steps, luma_programs, chroma_programs,
    CHANNELS: tl.constexpr, SCALE: tl.constexpr, LOW_BITS: tl.constexpr, KEPT: tl.constexpr,
    # tunables
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    plane, rows, columns = 0, luma_rows, luma_columns
    if CHANNELS == 3:
        chroma = program >= luma_programs
        program = tl.where(chroma, program - luma_programs, program)
        plane = tl.where(chroma, 1 + program // chroma_programs, 0)
        program = tl.where(chroma, program % chroma_programs, program)
        rows, columns = tl.where(chroma, chroma_rows, luma_rows), tl.where(chroma, chroma_columns, luma_columns)
    source, target = _pick(planes, plane, CHANNELS), _pick(out, plane, CHANNELS)
    pitch, step = _pick(pitches, plane, CHANNELS), _pick(steps, plane, CHANNELS)
    across = (columns + COLUMNS - 1) // COLUMNS
    x = program % across * COLUMNS + tl.arange(0, COLUMNS)
    top = program // across * ROWS
    if last is None:
        for i in tl.static_range(ROWS):
            inside = x < tl.where(top + i < rows, columns, 0)
            word = tl.load(source + (top + i) * pitch + x * step, inside, other=0).to(tl.int32)
            tl.store(target + (top + i) * columns + x, ((word >> LOW_BITS) * SCALE).to(tl.uint16), inside)
    else:
        state = _pick(last, plane, CHANNELS)
        starts = False if fresh is None else tl.load(fresh) != 0
        limits = _pick(per_pixel, plane, CHANNELS), _pick(per_sum, plane, CHANNELS), _pick(per_size, plane, CHANNELS)
        offsets, samples = (), ()
        for shift in tl.static_range(-2, 3):
            at = tl.minimum(tl.maximum(x + shift, 0), columns - 1)
            offsets, samples = offsets + (at,), samples + (at * step,)
        centres, befores, totals, sizes = (), (), (), ()
        results = ()  # stored at the end: loads can't pass a store
        for i in tl.static_range(ROWS + 4):
            y = tl.minimum(tl.maximum(top + i - 2, 0), rows - 1)
            row, last_row = source + y * pitch, state + y * columns
            centre, before, total, size = _row(row, last_row, samples, offsets, SCALE, LOW_BITS)
            centres, befores = centres + (centre,), befores + (before,)
            totals, sizes = totals + (total,), sizes + (size,)
            if i >= 4:
                total = totals[i - 4] + totals[i - 3] + totals[i - 2] + totals[i - 1] + totals[i]
                size = sizes[i - 4] + sizes[i - 3] + sizes[i - 2] + sizes[i - 1] + sizes[i]
                moved = tl.maximum(tl.abs(centres[i - 2]).to(tl.float32) * limits[0], size.to(tl.float32) * limits[2])
                moved = tl.maximum(moved, tl.abs(total).to(tl.float32) * limits[1]) - 1.0
                weight = 1.0 - KEPT * (1.0 - tl.clamp(moved, 0.0, 1.0))
                difference = centres[i - 2].to(tl.float32)
                value = (befores[i - 2].to(tl.float32) + weight * difference + 0.5).to(tl.int32)
                results += (tl.where(starts, befores[i - 2] + centres[i - 2], value).to(tl.uint16),)
        for i in tl.static_range(ROWS):
            tl.store(target + (top + i) * columns + x, results[i], x < tl.where(top + i < rows, columns, 0))


def filter_planes(
    planes: Sequence[Tensor],
    last: Sequence[Tensor] | None,
    pixel_format: PixelFormat,
    amount: float,
    *,
    fresh: Tensor | None = None,
    out: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """The next frame's filtered planes; see `rtlit.denoise.filter_planes`, of which it is within one unit.

    Args:
        planes: codes [rows, columns] of the new frame, uint8 at depth 8 and uint16 above, any strides.
        last: the filtered planes that the frame before left, uint16, contiguous; None starts afresh.
        amount: above 0 to 1.
        fresh: int32 [1] on the device: not 0 starts afresh in spite of `last` (`State.cut`).
        out: uint16 like `last`, of other memory than it.

    Returns:
        `out`: codes · 2^(16 − depth).

    Raises:
        ValueError: shapes or types other than these.
    """
    rows, columns = check_planes(planes, pixel_format)
    if not 0 < amount <= 1:
        raise ValueError(f"{amount = } must be above 0, at most 1")
    if out is None:
        out = [torch.empty(plane.shape, dtype=torch.uint16, device=plane.device) for plane in planes]
    for state in (out, last or out):
        kinds = [(plane.shape, plane.dtype, plane.is_contiguous()) for plane in state]
        if kinds != [(plane.shape, torch.uint16, True) for plane in planes]:
            raise ValueError(f"filtered planes of {kinds}; expected contiguous uint16 of the planes' shapes")
    if last and any(ours.data_ptr() == theirs.data_ptr() for ours, theirs in zip(out, last, strict=True)):
        raise ValueError("out must not be last: a pixel's neighbours are read after it is written")
    launch = filter_launch(rows, columns)
    chroma_rows, chroma_columns = planes[-1].shape
    programs = [
        triton.cdiv(plane.shape[0], launch.rows) * triton.cdiv(plane.shape[1], launch.columns) for plane in planes
    ]
    sigmas = [sigma_of(index, pixel_format, amount) for index in range(len(planes))]
    _filter_kernel[(sum(programs),)](
        tuple(planes), None if last is None else tuple(last), fresh,
        *(tuple(1 / limit for limit in limits) for limits in zip(*map(limits_of, sigmas), strict=True)),
        tuple(out),
        rows, columns, chroma_rows, chroma_columns, tuple(plane.stride(0) for plane in planes),
        tuple(plane.stride(1) for plane in planes), programs[0], programs[-1],
        len(planes), 1 << (BITS - pixel_format.depth), pixel_format.low_bits, KEPT, launch.rows, launch.columns,
        **launch.options(),
    )  # fmt: skip
    return list(out)


def sigma_of(plane: int, pixel_format: PixelFormat, amount: float) -> float:
    """The noise that is filtered away, in units of the filtered planes; as `rtlit.denoise.noise_sigmas`."""
    chroma = plane > 0 and not pixel_format.is_rgb
    return amount * MAX_NOISE * (1 << (BITS - 8)) * (CHROMA_NOISE if chroma else 1.0)


def limits_of(sigma: float) -> tuple[float, float, float]:
    """What |d|, |Σ d| and Σ|d| are divided by; as `rtlit.denoise.limits`."""
    return PIXEL_LIMIT * sigma, SUM_LIMIT * 5 * sigma, SIZE_LIMIT * 25 * sigma


def _variant(name: str, words: str, depth: int, low_bits: int, step: int) -> Variant:
    launch = filter_launch(1080, 1920)
    integers = "luma_rows luma_columns chroma_rows chroma_columns luma_programs chroma_programs"
    return Variant(
        name,
        _filter_kernel,
        {
            "planes": (words,) * 3,
            **dict.fromkeys(("last", "out"), ("*u16",) * 3),
            "fresh": "*i32",
            **dict.fromkeys(("per_pixel", "per_sum", "per_size"), ("fp32",) * 3),
            **dict.fromkeys(integers.split(), "i32"),
            **dict.fromkeys(("pitches", "steps"), ("i32",) * 3),
        },
        {
            "CHANNELS": 3,
            "SCALE": 1 << (BITS - depth),
            "LOW_BITS": low_bits,
            "KEPT": KEPT,
            "ROWS": launch.rows,
            "COLUMNS": launch.columns,
        },
        launch,
        registers=128,
    )


VARIANTS = [_variant("filter nv12", "*u8", 8, 0, 2), _variant("filter p010le", "*u16", 10, 6, 2)]
