"""The grid over time, and the gain that `apply_curves` slices.

    G ← Ĝ + kept·clamp(G − Ĝ, ±MAX_LAG), kept = e^(−Δpts/τ);   G ← Ĝ at a cut: ½·Σ|histogram − last| > CUT_DISTANCE
    gain = exp(keep_order(strength·G))

keep_order: t(d) ← min(t(d), t(d + 1) + ln(1 + (D − 1) / ((d + 1)·(D − 2 − d)))) for bins d from D − 3 down to 0, the
steepest fall that keeps greys in order; to the last bin t may fall by any amount.

`follow` does all of it in one launch: 8,064 values of a 3×8×14×24 grid, 97 kB moved, so launch and latency are all it
takes. A program has a column of bins to a thread, takes the decision on cuts by itself, and reads and writes no other
program's columns. The last one to finish, known by its ticket, remembers the histogram.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtlit_kernels.launch import INTERPRETED, Launch, Variant

CUT_DISTANCE = 0.4
MAX_LAG = 0.1
_BINS = 128
_BLOCK = 4096 if INTERPRETED else 64  # columns to a program: 16 programs of a 3×14×24 grid


@dataclass(frozen=True)
class State:
    """What a frame leaves to the next of its video, on the device.

    Attributes:
        grid: G f32 [K, D, GH, GW].
        histogram: f32 [128].
        cut: int32 [1]; 1 where the last frame was the first of its shot (`filter_planes` takes it as `fresh`), else 0.
        ticket: int32 [1], 0 between launches.
    """

    grid: Tensor
    histogram: Tensor
    cut: Tensor
    ticket: Tensor

    @classmethod
    def empty(cls, shape: tuple[int, int, int, int], device: torch.device | str) -> State:
        """A state without a frame: the first `follow` must be told to start afresh."""
        flags = torch.zeros(2, 1, dtype=torch.int32, device=device)
        return cls(torch.zeros(shape, device=device), torch.zeros(_BINS, device=device), flags[0], flags[1])


@triton.jit
def _is_cut(histogram, last_histogram, CUT_DISTANCE: tl.constexpr, BINS: tl.constexpr):
    """The decision, and the histogram that it was taken from."""
    bins = tl.arange(0, BINS)
    now = tl.load(histogram + bins)
    return 0.5 * tl.sum(tl.abs(now - tl.load(last_histogram + bins)), 0) > CUT_DISTANCE, now


@triton.jit
def _follow_kernel(
    # inputs
    estimate, histogram, controls,
    # outputs
    grid, last_histogram, cut_flag, ticket, out,
    # shapes
    columns, cells, D: tl.constexpr, BINS: tl.constexpr,
    # tunables
    CUT_DISTANCE: tl.constexpr, MAX_LAG: tl.constexpr, EXPONENTIATED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    cut, now = _is_cut(histogram, last_histogram, CUT_DISTANCE, BINS)
    cut = cut | (tl.load(controls + 2) >= 0.5)
    kept, strength = tl.load(controls), tl.load(controls + 1)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    at = column // cells * (D * cells) + column % cells
    new, old = (), ()  # all loads before the first store, which they can't pass
    for d in tl.static_range(D):
        new = new + (tl.load(estimate + at + d * cells, inside, other=0),)
        old = old + (tl.load(grid + at + d * cells, inside, other=0),)
    tl.debug_barrier()  # every thread has read the last histogram before the ticket says so
    if tl.atomic_add(ticket, 1) == tl.num_programs(0) - 1:
        tl.store(last_histogram + tl.arange(0, BINS), now)
        tl.store(cut_flag, cut.to(tl.int32))
        tl.store(ticket, 0)
    lighter = tl.full((BLOCK,), 0, tl.float32)
    for d in tl.static_range(D - 1, -1, -1):
        t = tl.where(cut, new[d], new[d] + kept * tl.clamp(old[d] - new[d], -MAX_LAG, MAX_LAG))
        tl.store(grid + at + d * cells, t, inside)
        t *= strength
        if EXPONENTIATED:
            t, lighter = _ordered(t, lighter, d, D)
            t = tl.exp(t)
        tl.store(out + at + d * cells, t, inside)


@triton.jit
def _ordered(t, lighter, d: tl.constexpr, D: tl.constexpr):
    """t of bin d, low enough for the bin above it; and what the bin below has to be low enough for."""
    if d < D - 2:
        t = tl.minimum(t, lighter + tl.log(1.0 + (D - 1) / ((d + 1.0) * (D - 2 - d))))
    return t, t


@triton.jit
def _exponentiate_kernel(
    # inputs
    grid, strength,
    # outputs
    out,
    # shapes
    columns, cells, D: tl.constexpr,
    # tunables
    BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    at = column // cells * (D * cells) + column % cells
    lighter = tl.full((BLOCK,), 0, tl.float32)
    for d in tl.static_range(D - 1, -1, -1):
        t, lighter = _ordered(strength * tl.load(grid + at + d * cells, inside, other=0), lighter, d, D)
        tl.store(out + at + d * cells, tl.exp(t), inside)


@triton.jit
def _smooth_kernel(
    # inputs
    estimate, histogram, grid, last_histogram, kept,
    # outputs
    out,
    # shapes
    values, BINS: tl.constexpr,
    # tunables
    CUT_DISTANCE: tl.constexpr, MAX_LAG: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    cut, _ = _is_cut(histogram, last_histogram, CUT_DISTANCE, BINS)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < values
    new, old = tl.load(estimate + at, inside, other=0), tl.load(grid + at, inside, other=0)
    t = tl.where(cut, new, new + kept * tl.clamp(old - new, -MAX_LAG, MAX_LAG))
    tl.store(out + at, t, inside)


def follow(
    estimate: Tensor, histogram: Tensor, state: State, controls: Tensor, *, out: Tensor, exponentiated: bool = True
) -> Tensor:
    """Smooth the grid into `state`, remember the histogram there, and write the gain; no host sync, one launch.

    Args:
        estimate: Ĝ f32 [K, D, GH, GW] of this frame. histogram: f32 [128] of this frame.
        state: of the frame before; changed in place.
        controls: f32 [4] on the device: kept = e^(−Δpts/τ) (0 if τ is), strength, reset (≥ 0.5 starts afresh), unused.
        out: f32 [K, D, GH, GW].
        exponentiated: write the gain; otherwise strength·G, to be changed and then exponentiated with strength 1.

    Returns:
        `out`.

    Raises:
        ValueError: shapes or types other than these.
    """
    columns, cells = _columns(estimate)
    _check(estimate=estimate, grid=state.grid, out=out)
    _check(histogram=histogram, last_histogram=state.histogram)
    _follow_kernel[(triton.cdiv(columns, _BLOCK),)](
        estimate, histogram, controls, state.grid, state.histogram, state.cut, state.ticket, out,
        columns, cells, estimate.shape[1], _BINS, CUT_DISTANCE, MAX_LAG, exponentiated, _BLOCK, **_LAUNCH.options(),
    )  # fmt: skip
    return out


def exponentiate(grid: Tensor, strength: float, *, out: Tensor | None = None) -> Tensor:
    """The gain e^(strength·t) in order; see `rtlit.reference.exponentiate`.

    Args:
        grid: t f32 [K, D, GH, GW]. out: the same; may be `grid`.
    """
    out = torch.empty_like(grid) if out is None else out
    columns, cells = _columns(grid)
    _check(grid=grid, out=out)
    _exponentiate_kernel[(triton.cdiv(columns, _BLOCK),)](
        grid, float(strength), out, columns, cells, grid.shape[1], _BLOCK, **_LAUNCH.options()
    )
    return out


def smooth(
    estimate: Tensor,
    histogram: Tensor,
    grid: Tensor,
    last_histogram: Tensor,
    elapsed: float,
    tau: float,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Exponential moving average of the grid, reset at cuts; see `rtlit.reference.smooth`.

    Args:
        estimate, grid, out: f32 [K, D, GH, GW]; out may be `grid`. histogram, last_histogram: f32 [128].
        elapsed, tau: seconds.
    """
    out = torch.empty_like(grid) if out is None else out
    _columns(estimate)
    _check(estimate=estimate, grid=grid, out=out)
    _check(histogram=histogram, last_histogram=last_histogram)
    kept = math.exp(-elapsed / tau) if tau > 0 else 0.0
    block = 8 * _BLOCK
    _smooth_kernel[(triton.cdiv(grid.numel(), block),)](
        estimate, histogram, grid, last_histogram, kept, out, grid.numel(), _BINS, CUT_DISTANCE, MAX_LAG, block,
        **_LAUNCH.options(),
    )  # fmt: skip
    return out


_LAUNCH = Launch(num_warps=2, num_stages=1)


def _columns(grid: Tensor) -> tuple[int, int]:
    """Columns of bins of all curves, and of one of them."""
    if grid.ndim != 4 or grid.shape[1] < 2:
        raise ValueError(f"a grid of {list(grid.shape)}; expected [K, D, GH, GW], D at least 2")
    cells = grid.shape[2] * grid.shape[3]
    return grid.shape[0] * cells, cells


def _check(**tensors: Tensor) -> None:
    """All of the first one's shape, float32 and contiguous."""
    shape = next(iter(tensors.values())).shape
    for name, tensor in tensors.items():
        if tensor.shape != shape or tensor.dtype != torch.float32 or not tensor.is_contiguous():
            kind = f"{list(tensor.shape)} of {tensor.dtype}, strides {tensor.stride()}"
            raise ValueError(f"{name} is {kind}; expected contiguous {list(shape)} of torch.float32")


def _variant(name: str, exponentiated: bool) -> Variant:
    pointers = "estimate histogram controls grid last_histogram out"
    types = {**dict.fromkeys(pointers.split(), "*fp32"), "cut_flag": "*i32", "ticket": "*i32"}
    constants = {"CUT_DISTANCE": CUT_DISTANCE, "MAX_LAG": MAX_LAG, "EXPONENTIATED": exponentiated, "BLOCK": 64}
    return Variant(
        name,
        _follow_kernel,
        {**types, "columns": "i32", "cells": "i32"},
        {"D": 8, "BINS": _BINS, **constants},
        _LAUNCH,
        registers=96,
        divisible=tuple(pointers.split()),
    )


VARIANTS = [_variant("follow", True), _variant("follow hdr", False)]
