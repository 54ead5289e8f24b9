"""The estimate, as far as there is evidence of bad light: t times one factor of 0 to 1 for the whole picture.

    factor = clamp((s − DOUBT) / (BELIEF − DOUBT), 0, 1)
    s      = mean over the thumbnail's pixels of gain + DARK_WEIGHT·dark
    gain   = Σ over bins d of max(0, 1 − |(D − 1)·tone − d|)·(L(z; t) − z), z = d/(D − 1), t the mean of K curves
    dark   = clamp(2 − 7·tone, 0, 1), tone the brightest channel

Reads the thumbnail and the grid, writes the grid: 0.32 MB for 112×192 and 3×8×14×24, all in L2, so latency is all it
takes. One launch, whose loads don't depend on each other. The first and last bin gain nothing whatever t is, and aren't
loaded.

Scores are summed in fixed point, so that the order of programs changes no bit. Sum and ticket are one 64-bit number: the
atomic that tells a program that it is the last gives it the sum, too. It alone scales the grid, 32 values a thread at
once, which takes less than a launch more.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtlit_kernels.launch import INTERPRETED, Launch, Variant

DARK_WEIGHT, DOUBT, BELIEF = 0.4, 0.15, 0.25
SCRATCH = 1  # int64: the sum, and in its low bits the ticket
_FRACTION = float(1 << 30)  # of a score; less than 2 in size, so the sum fits into 32 bits
_TICKET = 16  # bits
_PIXELS = 16384 if INTERPRETED else 512  # to a program: 42 programs of 8 cells of 8×8
_VALUES = 8192  # of the grid that the last program scales at a time


@triton.jit
def _restrain_kernel(
    # inputs
    estimate, thumbnail,
    # outputs
    out, scratch,
    # shapes
    cells, columns, scale, K: tl.constexpr, D: tl.constexpr, CELL_H: tl.constexpr, CELL_W: tl.constexpr,
    # tunables
    DARK_WEIGHT: tl.constexpr, DOUBT: tl.constexpr, BELIEF: tl.constexpr, FRACTION: tl.constexpr,
    TICKET: tl.constexpr, CELLS: tl.constexpr, PIXELS: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    pixel = tl.arange(0, PIXELS)
    width = columns * CELL_W
    corner = cell // columns * (CELL_H * width) + cell % columns * CELL_W
    at = thumbnail + corner[:, None] + (pixel // CELL_W * width + pixel % CELL_W)[None, :]
    inside = (cell < cells)[:, None] & (pixel < CELL_H * CELL_W)[None, :]
    plane = cells * (CELL_H * CELL_W)
    # What is outside is white, and scores 0.
    red, green = tl.load(at, inside, other=1), tl.load(at + plane, inside, other=1)
    tone = tl.maximum(tl.maximum(red, green), tl.load(at + 2 * plane, inside, other=1))
    score = DARK_WEIGHT * tl.clamp(2 - 7 * tone, 0.0, 1.0)
    for d in tl.static_range(1, D - 1):
        t = tl.zeros((CELLS,), tl.float32)
        for k in tl.static_range(K):
            t += tl.load(estimate + (k * D + d) * cells + cell, cell < cells, other=0)
        lifted = tl.exp(t / K) * (d / (D - 1))
        gain = lifted / (lifted + (1 - d / (D - 1))) - d / (D - 1)
        score += tl.maximum(1 - tl.abs((D - 1) * tone - d), 0) * gain[:, None]
    mine = (tl.sum(tl.sum(score, 1), 0) * scale).to(tl.int64)
    # Every load is in the sum, so done, before the ticket is: `out` may be `estimate`.
    before = tl.atomic_add(scratch, mine * (1 << TICKET) + 1)
    if before & ((1 << TICKET) - 1) == tl.num_programs(0) - 1:
        tl.store(scratch, tl.zeros((), tl.int64))
        evidence = ((before >> TICKET) + mine).to(tl.float32) * (1 / FRACTION)
        factor = tl.clamp((evidence - DOUBT) * (1 / (BELIEF - DOUBT)), 0.0, 1.0)
        for start in range(0, K * D * cells, VALUES):
            value = start + tl.arange(0, VALUES)
            there = value < K * D * cells
            tl.store(out + value, factor * tl.load(estimate + value, there, other=0), there)


def restrain(estimate: Tensor, thumbnail: Tensor, *, out: Tensor | None = None, scratch: Tensor | None = None) -> Tensor:
    """t as far as there is evidence of bad light; see `rtlit.reference.restrain`. One launch.

    Args:
        estimate: t f32 [K, D, GH, GW], D at least 2. thumbnail: R'G'B' f32 [3, h, w] in 0 … 1, h and w multiples of GH
            and GW.
        out: as `estimate`; may be it.
        scratch: int64 [SCRATCH], 0 before the first launch, and after each.

    Returns:
        `out`.

    Raises:
        ValueError: shapes or types other than these.
    """
    if estimate.ndim != 4 or estimate.shape[1] < 2 or thumbnail.shape[:-2] != (3,):
        shapes = f"{list(estimate.shape)} and {list(thumbnail.shape)}"
        raise ValueError(f"a grid and a thumbnail of {shapes}; expected [K, D, GH, GW], D at least 2, and [3, h, w]")
    (channels, bins, rows, columns), (height, width) = estimate.shape, thumbnail.shape[1:]
    if height % rows or width % columns or not height * width:
        raise ValueError(f"a thumbnail of {height}×{width}; expected multiples of the grid's {rows}×{columns} cells")
    out = torch.empty_like(estimate) if out is None else out
    if scratch is None:
        scratch = torch.zeros(SCRATCH, dtype=torch.int64, device=estimate.device)
    for name, tensor in {"estimate": estimate, "thumbnail": thumbnail, "out": out}.items():
        if tensor.dtype != torch.float32 or not tensor.is_contiguous():
            raise ValueError(f"{name} is of {tensor.dtype}, strides {tensor.stride()}; expected contiguous torch.float32")
    if out.shape != estimate.shape or scratch.shape != (SCRATCH,) or scratch.dtype != torch.int64:
        found = f"out of {list(out.shape)} and scratch of {list(scratch.shape)}, {scratch.dtype}"
        raise ValueError(f"{found}; expected {list(estimate.shape)} and [{SCRATCH}], torch.int64")
    cells, size = rows * columns, (height // rows, width // columns)
    pixels = triton.next_power_of_2(size[0] * size[1])
    block = max(1, _PIXELS // pixels)
    _restrain_kernel[(triton.cdiv(cells, block),)](
        estimate, thumbnail, out, scratch, cells, columns, _FRACTION / (height * width), channels, bins, *size,
        DARK_WEIGHT, DOUBT, BELIEF, _FRACTION, _TICKET, block, pixels, _VALUES, **_LAUNCH.options(),
    )  # fmt: skip
    return out


_LAUNCH = Launch(num_warps=8, num_stages=1)
VARIANTS = [
    Variant(
        "restrain",
        _restrain_kernel,
        {
            **dict.fromkeys(("estimate", "thumbnail", "out"), "*fp32"),
            **{"scratch": "*i64", "cells": "i32", "columns": "i32", "scale": "fp32"},
        },
        {"K": 3, "D": 8, "CELL_H": 8, "CELL_W": 8, "DARK_WEIGHT": DARK_WEIGHT, "DOUBT": DOUBT, "BELIEF": BELIEF}
        | {"FRACTION": _FRACTION, "TICKET": _TICKET, "CELLS": 8, "PIXELS": 64, "VALUES": _VALUES},
        _LAUNCH,
        registers=96,
        divisible=("estimate", "thumbnail", "out"),
    )
]
