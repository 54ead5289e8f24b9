"""CPU backend: `rtlit.backends.cpu_kernels` on strips of the frame's own planes, shared out among threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from rtlit.backends.choose import Filtered, Plane, check_size
from rtlit.backends.cpu_kernels import LANES, area_mean, filter_rows, lift_blocks
from rtlit.denoise import BITS, KEPT, limits, noise_sigmas
from rtlit.errors import UsageError
from rtlit.frame import Color, PixelFormat
from rtlit.reference import tone_histogram

Floats = NDArray[np.float32]

_APPLY_STRIPS = 4  # a thread: a core that is busy with something else gets fewer. `analyze` is too short for that


class CpuBackend:
    """`rtlit.backends.choose.Backend` on CPU threads; within one code value of `rtlit.reference`."""

    estimates_per_second = 15.0

    def __init__(self, threads: int) -> None:
        self.name = f"numba on {threads} CPU thread{'s' if threads > 1 else ''}"
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads - 1, "rtlit") if threads > 1 else None

    def analyze(
        self, planes: tuple[Plane, ...], pixel_format: PixelFormat, color: Color, size: tuple[int, int]
    ) -> tuple[Floats, Floats]:
        """See `rtlit.reference.analyze`."""
        height, width = planes[0].shape
        check_size(height, width)
        if pixel_format.low_bits:
            raise UsageError(f"{pixel_format.name}: the CPU takes codes in the low bits; convert it to planar first")
        means = np.empty((len(planes), *size), np.float32)
        jobs = []
        for index, plane in enumerate(planes):
            shift_y, shift_x = (pixel_format.shift_y, pixel_format.shift_x) if index else (0, 0)
            rows = _edges(height / (1 << shift_y), size[0])
            columns = _edges(width / (1 << shift_x), size[1])
            source = _readable(plane)
            jobs += [(source, *plane.shape, rows, columns, means[index], *strip) for strip in self._strips(size[0], 1)]
        self._run(area_mean, jobs)
        return _thumbnail(means, pixel_format, color)

    def apply(
        self,
        planes: tuple[Plane, ...],
        gain: Floats,
        pixel_format: PixelFormat,
        color: Color,
        out: tuple[Plane, ...],
        filtered: Filtered | None = None,
    ) -> None:
        """See `rtlit.reference.apply_curves`."""
        sources, targets = [_readable(plane) for plane in planes], [_writable(plane) for plane in out]
        absent = 3 - len(planes)
        clean = None
        if filtered is not None:
            clean = tuple(_readable(plane) for plane in (*filtered, *[filtered[0][:0]] * absent))
        table = _table(gain)
        block_rows = -(-planes[0].shape[0] >> pixel_format.shift_y)
        shared = (
            *sources,
            *([sources[0][:0]] * absent),
            clean,
            *targets,
            *([targets[0][:0]] * absent),
            *_parameters(planes, table, pixel_format, color, filtered is not None),
        )
        self._run(lift_blocks, [(*shared, *strip) for strip in self._strips(block_rows, _APPLY_STRIPS)])
        for plane, target in zip(out, targets, strict=True):
            if not np.shares_memory(plane, target):
                plane[...] = target[: plane.shape[0], : plane.shape[1]]

    def denoise(
        self,
        planes: tuple[Plane, ...],
        last: Filtered | None,
        pixel_format: PixelFormat,
        amount: float,
        out: Filtered,
    ) -> None:
        """See `rtlit.denoise.filter_planes`."""
        shift = BITS - pixel_format.depth
        if last is None:
            for plane, target in zip(planes, out, strict=True):
                np.left_shift(plane, shift, out=target, dtype=np.uint16)
            return
        jobs = []
        for plane, state, sigma, target in zip(planes, last, noise_sigmas(amount, pixel_format), out, strict=True):
            scalars = np.array([1 << shift, *(1 / limit for limit in limits(sigma)), KEPT], np.float32)
            shared = (_readable(plane), _readable(state), target, scalars)
            jobs += [(*shared, *strip) for strip in self._strips(target.shape[0], _APPLY_STRIPS)]
        self._run(filter_rows, jobs)

    def _strips(self, rows: int, per_thread: int) -> list[tuple[int, int]]:
        count = min(rows, self.threads * per_thread if self.threads > 1 else 1)
        cuts = [rows * i // count for i in range(count + 1)]
        return list(zip(cuts, cuts[1:], strict=False))

    def _run(self, kernel: Callable[..., None], jobs: list[tuple[Any, ...]]) -> None:
        """The calling thread works too, and waits for no helper that found no core to start on."""
        rest = iter(jobs)  # advanced by one thread at a time, under the GIL

        def work() -> None:
            for job in rest:
                kernel(*job)

        helpers = [self._pool.submit(work) for _ in range(self.threads - 1)] if self._pool else []
        work()
        for helper in helpers:
            if not helper.cancel():
                helper.result()


def _parameters(
    planes: tuple[Plane, ...], table: Floats, pixel_format: PixelFormat, color: Color, filtered: bool
) -> tuple[Any, ...]:
    """What `lift_blocks` takes between the planes and the strip."""
    height, width = planes[0].shape
    cells_y, down, _ = _cells(height, table.shape[0])
    _, right, bounds = _cells(width, table.shape[1] + 1)
    luma, chroma = color.scales(pixel_format.depth)
    return (
        (height, width, planes[-1].shape[1]),
        (pixel_format.shift_y, pixel_format.shift_x, len(planes), LANES),
        np.array([*luma, *chroma, pixel_format.max_code], np.float32),
        np.array([*luma, *chroma], np.float32) * (1 << (BITS - pixel_format.depth) if filtered else 1),
        np.array(color.to_rgb(), np.float32),
        np.array(color.from_rgb(), np.float32),
        table.reshape(len(table), -1),
        cells_y,
        down,
        bounds,
        right,
        (0.0,) * table.shape[-1],  # its length is the number of bins, a constant of the compilation
    )


def _readable(plane: Plane) -> Plane:
    """[rows, linesize]: with the padding it is contiguous, so LLVM knows that its columns are adjacent."""
    padded = _padded(plane)
    view = (np.ascontiguousarray(plane) if padded is None else padded)[:]
    view.flags.writeable = False  # always, which halves the kernels to compile
    return cast(Plane, view)


def _writable(plane: Plane) -> Plane:
    padded = _padded(plane)
    return np.empty(plane.shape, plane.dtype) if padded is None else padded


def _padded(plane: Plane) -> Plane | None:
    if plane.flags.c_contiguous and plane.flags.aligned:
        return plane
    item = plane.itemsize
    pitch, rest = divmod(plane.strides[0], item)
    if plane.strides[1] != item or rest or pitch < plane.shape[1] or not plane.flags.aligned:
        return None
    return cast(Plane, as_strided(plane, (plane.shape[0], pitch), (pitch * item, item)))


def _thumbnail(means: Floats, pixel_format: PixelFormat, color: Color) -> tuple[Floats, Floats]:
    luma, chroma = color.scales(pixel_format.depth)
    if len(means) == 1:
        thumbnail = np.repeat((means - luma[0]) / luma[1], 3, 0)
    else:
        offset, scale = np.array([luma, chroma, chroma], np.float32).T[:, :, None, None]
        thumbnail = np.tensordot(np.array(color.to_rgb(), np.float32), (means - offset) / scale, 1)
    thumbnail = thumbnail.clip(0, 1).astype(np.float32, copy=False)
    return thumbnail, tone_histogram(torch.from_numpy(thumbnail)).numpy()


@lru_cache(64)
def _edges(extent: float, cells: int) -> NDArray[np.float64]:
    return np.arange(cells + 1, dtype=np.float64) * (extent / cells)


@lru_cache(64)
def _cells(pixels: int, cells: int) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
    """Between which two cell centres every pixel of an axis lies.

    Returns:
        cell [pixels], the one before; weight [pixels + 16] in 0 … 1 of the one after; and bounds [cells], the
        first pixel of every cell's segment and the end of the last.
    """
    at = ((np.arange(pixels) + 0.5) * cells / pixels - 0.5).clip(0, cells - 1)
    cell = np.minimum(at.astype(np.int64), cells - 2)
    weight = np.append(at - cell, np.zeros(LANES)).astype(np.float32)
    return cell, weight, np.searchsorted(cell, np.arange(cells))


def _table(gain: Floats) -> Floats:
    """F = gain − 1 of [K, D, GH, GW] as [GH, GW − 1, 3, 2, 2, D].

    Between two columns of cells: of the left one and by how much the right one is larger; of every bin and by how
    much the next is larger. A grid of a single row or column is repeated.
    """
    table = (gain - np.float32(1)).transpose(2, 3, 0, 1)
    height, width, _, _ = table.shape
    table = np.repeat(np.repeat(table, 2 if height == 1 else 1, 0), 2 if width == 1 else 1, 1)
    table = np.stack([table, np.diff(table, axis=3, append=table[..., -1:])], 3)
    table = np.stack([table[:, :-1], np.diff(table, axis=1)], 3)
    return np.ascontiguousarray(np.broadcast_to(table, (*table.shape[:2], 3, *table.shape[3:])), np.float32)
