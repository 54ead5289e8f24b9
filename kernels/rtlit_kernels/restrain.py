"""The estimate, as far as there is evidence of bad light: t times one factor of 0 to 1 for the whole picture.

    factor   = b + (1 − b)·clamp(strength − 1, 0, 1)
    b        = max(clamp((evidence − DOUBT) / (BELIEF − DOUBT), 0, 1), HARMLESS / max(gain, HARMLESS))
    evidence = gain + DARK_WEIGHT·dark + BRIGHT_WEIGHT·bright, means over the thumbnail's pixels of
    gain     = Σ over bins d of max(0, 1 − |(D − 1)·tone − d|)·(L(z; t) − z), z = d/(D − 1), t the mean of K curves
    dark     = clamp(2 − 7·tone, 0, 1), tone the brightest channel
    bright   = clamp(7·tone − 5, 0, 1)

Reads the thumbnail and the grid, writes the grid: 0.32 MB for 112×192 and 3×8×14×24, all in L2, so latency is all it
takes. One launch, whose loads don't depend on each other. The first and last bin gain nothing whatever t is, and aren't
loaded.

Means are summed in fixed point, so that the order of programs changes no bit. Both sums and the ticket are one 64-bit
number: the atomic that tells a program that it is the last gives it the sums, too. It alone scales the grid, 32 values
a thread at once, in place of a launch more.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtlit_kernels.launch import INTERPRETED, Launch, Variant

DARK_WEIGHT, BRIGHT_WEIGHT, DOUBT, BELIEF, HARMLESS = 0.4, 0.3, 0.1, 0.3, 0.005
SCRATCH = 1  # int64: from the top the gain (signed), the weight of dark and bright parts, the ticket
_BITS = {"GAIN": 27, "WEIGHT": 24, "TICKET": 12}
_LARGEST = 16 << 15  # pixels of a thumbnail, as of `analyze`: no more than 2,048 programs
_PIXELS = 16384 if INTERPRETED else 512  # to a program: 42 programs of 8 cells of 8×8
_VALUES = 8192  # of the grid that the last program scales at a time


@triton.jit
def _fixed(values, share, BITS: tl.constexpr):
    """Sum of values that each count for a share of 1, as a whole number of 2^-BITS."""
    return tl.floor(tl.sum(tl.sum(values, 1), 0) * share * (1 << BITS) + 0.5).to(tl.int64)


@triton.jit(do_not_specialize=["cells", "columns", "share"])
def _restrain_kernel(
    # inputs
    estimate, thumbnail, controls,
    # outputs
    out, scratch,
    # shapes
    cells, columns, share, K: tl.constexpr, D: tl.constexpr, CELL_H: tl.constexpr, CELL_W: tl.constexpr,
    # tunables
    DARK_WEIGHT: tl.constexpr, BRIGHT_WEIGHT: tl.constexpr, DOUBT: tl.constexpr, BELIEF: tl.constexpr,
    HARMLESS: tl.constexpr, GAIN: tl.constexpr, WEIGHT: tl.constexpr, TICKET: tl.constexpr,
    CELLS: tl.constexpr, PIXELS: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    pixel = tl.arange(0, PIXELS)
    width = columns * CELL_W
    corner = cell // columns * (CELL_H * width) + cell % columns * CELL_W
    at = thumbnail + corner[:, None] + (pixel // CELL_W * width + pixel % CELL_W)[None, :]
    inside = (cell < cells)[:, None] & (pixel < CELL_H * CELL_W)[None, :]
    plane = cells * (CELL_H * CELL_W)
    # What is outside is grey, neither dark nor bright, and masked below.
    red, green = tl.load(at, inside, other=0.5), tl.load(at + plane, inside, other=0.5)
    tone = tl.maximum(tl.maximum(red, green), tl.load(at + 2 * plane, inside, other=0.5))
    weight = DARK_WEIGHT * tl.clamp(2 - 7 * tone, 0.0, 1.0) + BRIGHT_WEIGHT * tl.clamp(7 * tone - 5, 0.0, 1.0)
    gain = tl.zeros((CELLS, PIXELS), tl.float32)
    ease = tl.clamp(tl.load(controls + 1) - 1, 0.0, 1.0)
    for d in tl.static_range(1, D - 1):
        t = tl.zeros((CELLS,), tl.float32)
        for k in tl.static_range(K):
            t += tl.load(estimate + (k * D + d) * cells + cell, cell < cells, other=0)
        lifted = tl.exp(t / K) * (d / (D - 1))
        lifted = lifted / (lifted + (1 - d / (D - 1))) - d / (D - 1)
        gain += tl.maximum(1 - tl.abs((D - 1) * tone - d), 0) * lifted[:, None]
    mine = _fixed(tl.where(inside, gain, 0), share, GAIN) * (1 << WEIGHT)
    mine = (mine + _fixed(weight, share, WEIGHT)) * (1 << TICKET) + 1
    # Every load is in the sums, so done, before the ticket is: `out` may be `estimate`.
    sums = tl.atomic_add(scratch, mine) + mine
    if sums & ((1 << TICKET) - 1) == tl.num_programs(0):
        tl.store(scratch, tl.zeros((), tl.int64))
        weights = (sums >> TICKET) & ((1 << WEIGHT) - 1)
        gained = (sums >> (TICKET + WEIGHT)).to(tl.float32) * (1 / (1 << GAIN))
        evidence = gained + weights.to(tl.float32) * (1 / (1 << WEIGHT))
        factor = tl.clamp((evidence - DOUBT) * (1 / (BELIEF - DOUBT)), 0.0, 1.0)
        # Exactly 1 there, which an approximate quotient isn't.
        factor = tl.where(gained > HARMLESS, tl.maximum(factor, HARMLESS / tl.maximum(gained, HARMLESS)), 1.0)
        factor += (1 - factor) * ease
        for start in range(0, K * D * cells, VALUES):
            value = start + tl.arange(0, VALUES)
            there = value < K * D * cells
            tl.store(out + value, factor * tl.load(estimate + value, there, other=0), there)


def restrain(
    estimate: Tensor,
    thumbnail: Tensor,
    controls: Tensor,
    *,
    out: Tensor | None = None,
    scratch: Tensor | None = None,
) -> Tensor:
    """t as far as there is evidence of bad light; see `rtlit.reference.restrain`. One launch.

    Args:
        estimate: t f32 [K, D, GH, GW], D at least 2. thumbnail: R'G'B' f32 [3, h, w] in 0 … 1, h and w multiples of GH
            and GW.
        controls: f32 [4] on the device, of which the second is the strength; see `rtlit_kernels.smooth.follow`.
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
    if height % rows or width % columns or not 0 < height * width <= _LARGEST:
        expected = f"multiples of the grid's {rows}×{columns} cells, at most {_LARGEST} pixels"
        raise ValueError(f"a thumbnail of {height}×{width}; expected {expected}")
    out = torch.empty_like(estimate) if out is None else out
    if scratch is None:
        scratch = torch.zeros(SCRATCH, dtype=torch.int64, device=estimate.device)
    for name, tensor in {"estimate": estimate, "thumbnail": thumbnail, "controls": controls, "out": out}.items():
        if tensor.dtype != torch.float32 or not tensor.is_contiguous():
            found = f"{name} is of {tensor.dtype}, strides {tensor.stride()}"
            raise ValueError(f"{found}; expected contiguous torch.float32")
    if out.shape != estimate.shape or scratch.shape != (SCRATCH,) or scratch.dtype != torch.int64:
        found = f"out of {list(out.shape)} and scratch of {list(scratch.shape)}, {scratch.dtype}"
        raise ValueError(f"{found}; expected {list(estimate.shape)} and [{SCRATCH}], torch.int64")
    cells, size = rows * columns, (height // rows, width // columns)
    pixels = triton.next_power_of_2(size[0] * size[1])
    block = max(1, _PIXELS // pixels)
    _restrain_kernel[(triton.cdiv(cells, block),)](
        estimate, thumbnail, controls, out, scratch, cells, columns, 1 / (height * width), channels, bins, *size,
        *_CONSTANTS.values(), block, pixels, _VALUES, **_LAUNCH.options(),
    )  # fmt: skip
    return out


_CONSTANTS = {
    "DARK_WEIGHT": DARK_WEIGHT,
    "BRIGHT_WEIGHT": BRIGHT_WEIGHT,
    "DOUBT": DOUBT,
    "BELIEF": BELIEF,
    "HARMLESS": HARMLESS,
    **_BITS,
}
_LAUNCH = Launch(num_warps=8, num_stages=1)
VARIANTS = [
    Variant(
        "restrain",
        _restrain_kernel,
        {
            **dict.fromkeys(("estimate", "thumbnail", "controls", "out"), "*fp32"),
            "scratch": "*i64",
            **dict.fromkeys(("cells", "columns"), "i32"),
            "share": "fp32",
        },
        {"K": 3, "D": 8, "CELL_H": 8, "CELL_W": 8, **_CONSTANTS, "CELLS": 8, "PIXELS": 64, "VALUES": _VALUES},
        _LAUNCH,
        registers=96,
        divisible=("estimate", "thumbnail", "controls", "out"),
    )
]
