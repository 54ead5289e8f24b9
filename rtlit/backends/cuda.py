"""CUDA backend: for now the reference itself, in torch, on the device. Slow beside fused kernels, and says so."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from rtlit import reference
from rtlit.backends.choose import Filtered, Plane
from rtlit.denoise import BITS, filter_planes
from rtlit.errors import DeviceError
from rtlit.frame import Color, PixelFormat


class TorchBackend:
    """`rtlit.backends.choose.Backend` as `rtlit.reference` computes it on a torch device."""

    estimates_per_second = math.inf

    def __init__(self, device: str = "cuda") -> None:
        self.device = torch.device(device)
        self.name = f"torch reference on {'CUDA' if self.device.type == 'cuda' else self.device}"

    def analyze(
        self, planes: tuple[Plane, ...], pixel_format: PixelFormat, color: Color, size: tuple[int, int]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `rtlit.reference.analyze`."""
        with self._memory(planes), torch.inference_mode():
            thumbnail, histogram = reference.analyze(self._upload(planes), pixel_format, color, size)
            return thumbnail.cpu().numpy(), histogram.cpu().numpy()

    def apply(
        self,
        planes: tuple[Plane, ...],
        gain: NDArray[np.float32],
        pixel_format: PixelFormat,
        color: Color,
        out: tuple[Plane, ...],
        filtered: Filtered | None = None,
    ) -> None:
        """See `rtlit.reference.apply_curves`."""
        with self._memory(planes), torch.inference_mode():
            grid = torch.from_numpy(np.ascontiguousarray(gain)).to(self.device)
            # Float codes: torch has few operations on uint16, and none of them on CUDA.
            codes, unit = self._upload(planes), 2.0 ** (pixel_format.depth - BITS)
            clean = None if filtered is None else [plane * unit for plane in self._upload(filtered)]
            lifted = reference.apply_curves(codes, grid, pixel_format, color, rounded=False, filtered=clean)
            for target, plane in zip(out, lifted, strict=True):
                rounded = (plane + 0.5).floor().clamp(0, pixel_format.max_code)
                target[...] = rounded.cpu().numpy().astype(target.dtype)

    def denoise(
        self,
        planes: tuple[Plane, ...],
        last: Filtered | None,
        pixel_format: PixelFormat,
        amount: float,
        out: Filtered,
    ) -> None:
        """See `rtlit.denoise.filter_planes`."""
        with self._memory(planes), torch.inference_mode():
            state = None if last is None else self._upload(last)
            clean = filter_planes(self._upload(planes), state, pixel_format, amount)
            for target, plane in zip(out, clean, strict=True):
                target[...] = plane.cpu().numpy().astype(np.uint16)

    def _upload(self, planes: tuple[Plane, ...]) -> list[torch.Tensor]:
        return [torch.from_numpy(plane.astype(np.float32)).to(self.device) for plane in planes]

    @contextmanager
    def _memory(self, planes: tuple[Plane, ...]) -> Iterator[None]:
        try:
            yield
        except torch.cuda.OutOfMemoryError:
            height, width = planes[0].shape
            raise DeviceError(
                f"device cuda: out of memory on a frame of {width}×{height}; "
                "close what else uses the GPU, or use device cpu"
            ) from None
