"""Which backend runs, chosen once, and why."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rtlit.errors import DeviceError, UsageError
from rtlit.frame import Color, PixelFormat
from rtlit.reference import MIN_SIZE
from rtlit.settings import Device, EnhanceSettings

if TYPE_CHECKING:
    from rtlit.backends.cuda_engine import Engine
    from rtlit.network import CurveNetwork

Plane = NDArray[np.uint8] | NDArray[np.uint16]
Filtered = tuple[NDArray[np.uint16], ...]  # planes of codes · 2^(16 − depth)


@runtime_checkable
class Backend(Protocol):
    """The full-resolution stages; `rtlit.reference` and `rtlit.denoise` say what they compute."""

    name: str
    estimates_per_second: float  # how often the network runs where nothing else is asked for

    def analyze(
        self, planes: tuple[Plane, ...], pixel_format: PixelFormat, color: Color, size: tuple[int, int]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Planes → thumbnail [3, h, w] and tone histogram [bins]."""

    def apply(
        self,
        planes: tuple[Plane, ...],
        gain: NDArray[np.float32],
        pixel_format: PixelFormat,
        color: Color,
        out: tuple[Plane, ...],
        filtered: Filtered | None = None,
    ) -> None:
        """Lift `planes` by `gain` [K, D, GH, GW] into `out`, arrays of the same shapes (which may be `planes`)."""

    def denoise(
        self,
        planes: tuple[Plane, ...],
        last: Filtered | None,
        pixel_format: PixelFormat,
        amount: float,
        out: Filtered,
    ) -> None:
        """Filter `planes`, given what the frame before left, into `out`, contiguous arrays other than `last`."""


@runtime_checkable
class EngineBackend(Protocol):
    """A backend that does all of a frame's stages in one go, with the state between frames on its device."""

    name: str
    estimates_per_second: float

    def engine(self, network: CurveNetwork, settings: EnhanceSettings) -> Engine:
        """What enhances one video; only `settings.strength` may change, frame by frame."""


@dataclass(frozen=True)
class BackendChoice:
    """The backend that was taken and the reason, for people."""

    backend: Backend | EngineBackend
    reason: str


def check_size(height: int, width: int) -> None:
    """Raises UsageError for frames too small to analyze."""
    if min(height, width) < MIN_SIZE:
        raise UsageError(f"a frame of {width}×{height} is too small; each side must be at least {MIN_SIZE} pixels")


def available_threads() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_backend(device: Device = "auto", threads: int | None = None) -> BackendChoice:
    """Take the backend for a device.

    Raises:
        DeviceError: CUDA was asked for and isn't there.
    """
    import torch

    if device != "cpu" and torch.cuda.is_available():
        from rtlit.backends import cuda

        why = f"torch {torch.__version__} finds {torch.cuda.get_device_name()}"
        lacking = cuda.lacking()
        if lacking is None:
            return BackendChoice(cuda.CudaBackend(), why)
        why, way_out = f"{why}, but {lacking}", "use device cpu"
    else:
        built = torch.version.cuda is not None
        why = f"torch {torch.__version__} {'finds no CUDA device' if built else 'is a CPU build'}"
        way_out = "use device cpu, or install an NVIDIA driver and a CUDA build of torch"
    if device == "cuda":
        raise DeviceError(f"device cuda: {why}; {way_out}")
    from rtlit.backends.cpu import CpuBackend

    return BackendChoice(CpuBackend(threads or available_threads()), "asked for" if device == "cpu" else why)
