"""The estimate network: thumbnail → bilateral grid of curve parameters t, as `rtlit.network.CurveNetwork` computes it.

    stem      x ← relu(conv₂(relu(conv₁(2·thumbnail − 1))))              3×3, stride 2 each; one launch for both
    down      x ← relu(conv(x))                                          3×3, stride 2; one launch
    block     x ← relu(x + conv(relu(conv(x))))                          3×3; two launches
    tail      t = 4·tanh(head(relu(x + context(mean x, spread x))) / 4)  one launch

3 + 2·blocks launches: 9 for three blocks. Convolutions are matrix products on tensor cores, fp16 in, fp32 accumulated.
Between kernels activations are fp16, [cells, features], and saturate at fp16's largest number.

All of it fits into L2 (at width 64 and 88×160: thumbnail 0.17 MB, weights 0.6 MB, activations 0.17 MB), and 0.16 GFLOP
are a microsecond's work for a large GPU: latency binds. So a launch is cut into many small programs, and launches are
few. Two convolutions are fused where the first is cheap to repeat: conv₁ is computed anew for each tap of conv₂. A
block's two aren't: that would be nine times the first one's work.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtlit_kernels.launch import NETWORK, TURING_NETWORK, NetworkLaunch, Variant, fitted, network_launch
from rtlit_kernels.packing import Packed, pack_network

__all__ = ["Packed", "estimate", "pack_network", "scratch_size"]

STRIDE = 8  # thumbnail pixels to a grid cell, a side


@triton.jit
def _activation(x):
    """relu as fp16; what fp16 can't hold becomes its largest number, not infinity."""
    return tl.minimum(tl.maximum(x, 0.0), 65504.0).to(tl.float16)


@triton.jit
def _patches(thumbnail, offset, stride_c, stride_y, stride_x, y, x):
    """[rows, 32] fp16: the 27 inputs of the first convolution at (y, x) of its output, zero in the margin."""
    k = tl.arange(0, 32) % 27  # the last five, too, are loaded: their weights are zero
    # Sides are even, so only the margins above and to the left are ever read; bit by bit, an instruction says where.
    margin = (y == 0).to(tl.int32) + 2 * (x == 0).to(tl.int32)
    reaches = (k // 3 % 3 == 0).to(tl.int32) + 2 * (k % 3 == 0).to(tl.int32)
    row = offset + (2 * y - 1) * stride_y + (2 * x - 1) * stride_x
    address = row[:, None] + (k // 9 * stride_c + k // 3 % 3 * stride_y + k % 3 * stride_x)[None, :]
    mask = (margin[:, None] & reaches[None, :]) == 0
    return (2 * tl.load(thumbnail + address, mask=mask, other=0.5) - 1).to(tl.float16)


# Features of the first convolution that are worked on at a time: 64 at once spill on Turing.
_BLOCK_H = 32


@triton.jit(
    do_not_specialize=["offset", "stride_c", "stride_y", "stride_x", "height", "width"],
    do_not_specialize_on_alignment=["thumbnail"],
)
def _stem_kernel(
    # inputs
    thumbnail,
    offset,
    stride_c,
    stride_y,
    stride_x,
    weight_1,
    bias_1,
    weight_2,
    bias_2,
    # outputs
    out,
    # shapes
    height,
    width,
    H: tl.constexpr,
    C: tl.constexpr,
    # tunables
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_H: tl.constexpr,
):
    out_width = width // 4
    cells = height // 4 * out_width
    # A row is a column of taps of the second convolution. Each cell's fourth is there for the power of two: it
    # repeats the third, for weights of zero.
    row = tl.arange(0, 4 * BLOCK_M)
    cell = tl.minimum(tl.program_id(0) * BLOCK_M + row // 4, cells - 1)
    x = 2 * (cell % out_width) + tl.minimum(row % 4, 2) - 1
    y = 2 * (cell // out_width) - 1
    inside = x >= 0
    above = inside & (y >= 0)
    x = tl.maximum(x, 0)
    # All loads before the first product: they share one latency.
    patches_0 = _patches(thumbnail, offset, stride_c, stride_y, stride_x, tl.maximum(y, 0), x)
    patches_1 = _patches(thumbnail, offset, stride_c, stride_y, stride_x, y + 1, x)
    patches_2 = _patches(thumbnail, offset, stride_c, stride_y, stride_x, y + 2, x)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    tap = tl.arange(0, 4 * BLOCK_H)
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, H, BLOCK_H):
        h = first + tl.arange(0, BLOCK_H)
        w1 = tl.load(weight_1 + (h * 32)[None, :] + tl.arange(0, 32)[:, None])
        b1 = tl.load(bias_1 + h)[None, :]
        w2 = weight_2 + (n * (12 * H))[None, :] + (tap // BLOCK_H * H + first + tap % BLOCK_H)[:, None]
        # Padding of the second convolution is zero, not what the first makes of the margin.
        features = _activation(tl.where(above[:, None], tl.dot(patches_0, w1) + b1, 0.0))
        sums = tl.dot(tl.reshape(features, (BLOCK_M, 4 * BLOCK_H)), tl.load(w2), sums)
        features = _activation(tl.where(inside[:, None], tl.dot(patches_1, w1) + b1, 0.0))
        sums = tl.dot(tl.reshape(features, (BLOCK_M, 4 * BLOCK_H)), tl.load(w2 + 4 * H), sums)
        features = _activation(tl.where(inside[:, None], tl.dot(patches_2, w1) + b1, 0.0))
        sums = tl.dot(tl.reshape(features, (BLOCK_M, 4 * BLOCK_H)), tl.load(w2 + 8 * H), sums)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    features = _activation(sums + tl.load(bias_2 + n)[None, :])
    tl.store(out + (m * C)[:, None] + n[None, :], features, mask=(m < cells)[:, None])


@triton.jit(do_not_specialize=["height", "width", "stride", "carried_cells"])
def _conv_kernel(
    # inputs
    x,
    weight,
    bias,
    residual,
    # outputs
    out,
    # shapes
    height,
    width,
    stride,
    carried_cells,
    C: tl.constexpr,
    # tunables
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    # One kernel for all strides, with (carried_cells = cells) and without (0) a residual: one to compile.
    out_width = width // stride
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = m < height // stride * out_width
    at = (m * C)[:, None] + n[None, :]
    carried = tl.load(residual + at, mask=(m < carried_cells)[:, None], other=0.0)
    y = m // out_width * stride - 1
    x0 = m % out_width * stride - 1
    k = tl.arange(0, BLOCK_K)
    w = weight + (n * (9 * C))[None, :] + k[:, None]
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(9 * C // BLOCK_K):
        tap = step // (C // BLOCK_K)
        iy = y + tap // 3
        ix = x0 + tap % 3
        mask = inside & (iy >= 0) & (iy < height) & (ix >= 0) & (ix < width)
        first = step % (C // BLOCK_K) * BLOCK_K
        a = tl.load(x + ((iy * width + ix) * C + first)[:, None] + k[None, :], mask=mask[:, None], other=0.0)
        sums = tl.dot(a, tl.load(w + step * BLOCK_K), sums)
    sums += tl.load(bias + n)[None, :] + carried
    tl.store(out + at, _activation(sums), mask=inside[:, None])


@triton.jit(
    do_not_specialize=["cells", "out_width", "outputs", "offset", "stride_n", "stride_y", "stride_x"],
    do_not_specialize_on_alignment=["out"],
)
def _tail_kernel(
    # inputs
    x,
    weight_1,
    bias_1,
    weight_2,
    bias_2,
    weight_head,
    bias_head,
    # outputs
    out,
    offset,
    stride_n,
    stride_y,
    stride_x,
    # shapes
    cells,
    out_width,
    outputs,
    C: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    # tunables
    BLOCK_M: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
):
    p = tl.arange(0, P)
    n = tl.arange(0, N)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    mine = tl.load(x + (m * C)[:, None] + p[None, :], mask=(m < cells)[:, None] & (p < C)[None, :], other=0.0)
    w2 = tl.load(weight_2 + (p * P)[:, None] + p[None, :])
    # Every program computes mean and spread for itself, 32 features at a time: cheaper than a launch.
    context = tl.load(bias_1 + p)
    for first in range(0, C, 32):
        feature = first + tl.arange(0, 32)
        w_mean = tl.load(weight_1 + (p * (2 * P))[:, None] + feature[None, :]).to(tl.float32)
        w_spread = tl.load(weight_1 + (p * (2 * P) + P)[:, None] + feature[None, :]).to(tl.float32)
        mean = tl.zeros((32,), tl.float32)
        squares = tl.zeros((32,), tl.float32)
        for start in range(0, cells, BLOCK_CELLS):
            cell = start + tl.arange(0, BLOCK_CELLS)
            mask = (cell < cells)[:, None]
            block = tl.load(x + (cell * C)[:, None] + feature[None, :], mask=mask, other=0.0).to(tl.float32)
            # Chan, Golub and LeVeque's update: sums of squares would cancel.
            count = tl.minimum(cells - start, BLOCK_CELLS).to(tl.float32)
            block_mean = tl.sum(block, 0) / count
            deviation = tl.where(mask, block - block_mean[None, :], 0.0)
            share = count / (start + count)
            difference = block_mean - mean
            squares += tl.sum(deviation * deviation, 0) + difference * difference * (start * share)
            mean += difference * share
        spread = tl.sqrt(squares / cells + 1e-5)
        context += tl.sum(w_mean * mean[None, :] + w_spread * spread[None, :], 1)
    context = tl.sum(w2.to(tl.float32) * tl.maximum(context, 0.0)[None, :], 1) + tl.load(bias_2 + p)
    w_head = tl.load(weight_head + (n * P)[None, :] + p[:, None])
    t = tl.dot(_activation(mine.to(tl.float32) + context[None, :]), w_head) + tl.load(bias_head + n)[None, :]
    # 4·tanh(t/4), which is ±4 long before exp overflows.
    t = 8 * tl.sigmoid(tl.minimum(tl.maximum(t, -100.0), 100.0) / 2) - 4
    to = out + offset + (m // out_width * stride_y + m % out_width * stride_x)[:, None] + (n * stride_n)[None, :]
    tl.store(to, t, mask=(m < cells)[:, None] & (n < outputs)[None, :])


def _turned(tensor: Tensor, quarter_turns: int) -> tuple[int, int, int]:
    """(offset, row stride, column stride) at which `tensor` reads like torch.rot90(tensor, quarter_turns, (-2, -1))."""
    (height, width), (y, x) = tensor.shape[-2:], tensor.stride()[-2:]
    right, bottom = (width - 1) * x, (height - 1) * y
    return [(0, y, x), (right, -x, y), (bottom + right, -y, -x), (bottom, x, -y)][quarter_turns % 4]


def scratch_size(packed: Packed, size: tuple[int, int]) -> int:
    """How many fp16 numbers `estimate` needs between its kernels for a thumbnail of `size` (h, w)."""
    return 5 * packed.width * (size[0] // STRIDE) * (size[1] // STRIDE)


def estimate(
    thumbnail: Tensor,
    packed: Packed,
    *,
    quarter_turns: int = 0,
    out: Tensor | None = None,
    scratch: Tensor | None = None,
) -> Tensor:
    """Estimate curve parameters.

    Args:
        thumbnail: R'G'B' fp32 [3, h, w] in 0 … 1, any strides; h and w multiples of 8.
        packed: the network, on the thumbnail's device.
        quarter_turns: by how many quarters of a turn, counterclockwise, the picture is turned when it is shown; the
            network sees it so.
        out: fp32 [K, D, h/8, w/8], contiguous but for its start.
        scratch: fp16, `scratch_size` numbers, contiguous and aligned to 16 bytes.

    Returns:
        t fp32 [K, D, h/8, w/8], −4 … 4, of the picture as it is stored.

    Raises:
        ValueError: a thumbnail or buffers of other shapes.
    """
    height, width = thumbnail.shape[-2:]
    grid = (packed.channels, packed.bins, height // STRIDE, width // STRIDE)
    if thumbnail.shape[:-2] != (3,) or height % STRIDE or width % STRIDE or thumbnail.dtype != torch.float32:
        raise ValueError(f"{thumbnail.shape = } of {thumbnail.dtype} isn't fp32 [3, h, w] in multiples of {STRIDE}")
    if out is None:
        out = thumbnail.new_empty(grid)
    if scratch is None:
        scratch = thumbnail.new_empty(scratch_size(packed, (height, width)), dtype=torch.float16)
    if out.shape != grid or out.dtype != torch.float32 or not out.is_contiguous():
        raise ValueError(f"{out.shape = } of {out.dtype} isn't contiguous fp32 {list(grid)}")
    if scratch.dtype != torch.float16 or scratch.numel() < scratch_size(packed, (height, width)):
        raise ValueError(f"{scratch.shape = } of {scratch.dtype} isn't fp16 of {scratch_size(packed, (height, width))}")

    # From here on height and width are those of the picture as it is shown.
    offset, stride_y, stride_x = _turned(thumbnail, quarter_turns)
    if quarter_turns % 2:
        height, width = width, height
    rows, columns = height // STRIDE, width // STRIDE
    cells, c = rows * columns, packed.width
    wide, x, y = scratch[: 4 * cells * c], scratch[4 * cells * c :], scratch
    weight_1, bias_1, weight_2, bias_2 = packed.stem

    launches = network_launch(c, thumbnail.device)
    launch = launches.stem
    _stem_kernel[triton.cdiv(4 * cells, launch.cells), c // launch.features](
        thumbnail, offset, thumbnail.stride(0), stride_y, stride_x, weight_1, bias_1, weight_2, bias_2,
        wide, height, width, len(bias_1), c, launch.cells, launch.features, min(len(bias_1), _BLOCK_H),
        **launch.options(),
    )  # fmt: skip

    launch = launches.conv
    programs = triton.cdiv(cells, launch.cells), c // launch.features

    def conv(source: Tensor, index: int, target: Tensor, stride: int, carried_cells: int) -> None:
        weight, bias = packed.convs[index]
        _conv_kernel[programs](
            source, weight, bias, target, target, rows * stride, columns * stride, stride, carried_cells,
            c, launch.cells, launch.features, launch.inputs, **launch.options(),
        )  # fmt: skip

    conv(wide, 0, x, 2, 0)
    for index in range(1, len(packed.convs), 2):
        conv(x, index, y, 1, 0)
        # In place: a program reads of x what it then writes, and nothing else.
        conv(y, index + 1, x, 1, cells)

    tail = launches.tail
    offset, stride_y, stride_x = _turned(out, quarter_turns)
    weight_1, bias_1, weight_2, bias_2 = packed.context
    outputs = packed.channels * packed.bins
    _tail_kernel[(triton.cdiv(cells, tail.cells),)](
        x, weight_1, bias_1, weight_2, bias_2, *packed.head, out, offset, out.stride(1), stride_y, stride_x,
        cells, columns, outputs, c, len(bias_2), len(packed.head[1]), tail.cells, tail.statistics,
        **tail.options(),
    )  # fmt: skip
    return out


_SHIPPED_WIDTH = 96


def _variants(launch: NetworkLaunch, suffix: str, registers: int, capabilities: range) -> list[Variant]:
    """The kernels of the network that ships: 96 features, three curves of 8 bins."""
    launch = fitted(launch, _SHIPPED_WIDTH)
    weights = {"weight_1": "*fp16", "bias_1": "*fp32", "weight_2": "*fp16", "bias_2": "*fp32"}
    signatures = [
        {"thumbnail": "*fp32", **weights, "out": "*fp16"}
        | dict.fromkeys(["offset", "stride_c", "stride_y", "stride_x", "height", "width"], "i32"),
        {"x": "*fp16", "weight": "*fp16", "bias": "*fp32", "residual": "*fp16", "out": "*fp16"}
        | dict.fromkeys(["height", "width", "stride", "carried_cells"], "i32"),
        {"x": "*fp16", **weights, "weight_head": "*fp16", "bias_head": "*fp32", "out": "*fp32"}
        | dict.fromkeys(["offset", "stride_n", "stride_y", "stride_x", "cells", "out_width", "outputs"], "i32"),
    ]
    stem, conv, tail = launch.stem, launch.conv, launch.tail
    constexprs = [
        {"H": 64, "C": _SHIPPED_WIDTH, "BLOCK_M": stem.cells, "BLOCK_N": stem.features, "BLOCK_H": _BLOCK_H},
        {"C": _SHIPPED_WIDTH, "BLOCK_M": conv.cells, "BLOCK_N": conv.features, "BLOCK_K": conv.inputs},
        {"C": _SHIPPED_WIDTH, "P": 128, "N": 32, "BLOCK_M": tail.cells, "BLOCK_CELLS": tail.statistics},
    ]
    unaligned = [{"thumbnail"}, set(), {"out"}]
    kernels = [("stem", _stem_kernel, stem), ("conv", _conv_kernel, conv), ("tail", _tail_kernel, tail)]
    return [
        Variant(
            name + suffix,
            kernel,
            signature,
            constants,
            kernel_launch,
            registers,
            tuple(argument for argument in signature if signature[argument][0] == "*" and argument not in any_address),
            capabilities,
        )
        for (name, kernel, kernel_launch), signature, constants, any_address in zip(
            kernels, signatures, constexprs, unaligned, strict=True
        )
    ]


VARIANTS = [
    *_variants(NETWORK, "", 208, range(80, 1000)),
    *_variants(TURING_NETWORK, " without tensor cores", 255, range(75, 80)),
]
