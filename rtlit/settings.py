"""Settings of the enhancement, checked when made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rtlit.errors import UsageError

Device = Literal["auto", "cpu", "cuda"]
MAX_STRENGTH = 2.0


@dataclass(frozen=True)
class EnhanceSettings:
    """How to enhance.

    Attributes:
        device: "auto" takes CUDA where torch finds it and Triton is installed, and the CPU otherwise.
        strength: factor on the curves, 0 (unchanged) to 2; 1 is what the network was trained for, and above it what
            seems lit well is lifted, too. Of the CLIP-LIT U-Net, the power of the illumination that a picture is
            divided by.
        smoothing: time constant τ of the temporal smoothing in seconds; 0 follows every estimate at once.
        estimate_every: run the network on every N-th frame; None is automatic: every frame on CUDA, at most
            15 times a second of video on the CPU. A scene cut is estimated at once. On CUDA, where the network costs
            next to nothing, it runs on every frame, and only what it says on every N-th is taken.
        weights: a safetensors file, or a state dict (.pth) of the CLIP-LIT U-Net; None takes the shipped weights.
        threads: CPU threads; None takes all cores that the process may use.
        denoise: how much noise the lifted parts of a video are freed from, 0 (left alone) to 1. The temporal filter
            (`rtlit.denoise`) takes noise of a standard deviation up to 4·denoise 8-bit codes for noise.
    """

    device: Device = "auto"
    strength: float = 1.0
    smoothing: float = 0.5
    estimate_every: int | None = None
    weights: Path | None = None
    threads: int | None = None
    denoise: float = 0.0

    def __post_init__(self) -> None:
        if self.device not in get_args(Device):
            raise UsageError(f"device must be one of {', '.join(get_args(Device))}, not {self.device!r}")
        if not 0 <= self.strength <= MAX_STRENGTH:
            raise UsageError(f"strength must be between 0 and {MAX_STRENGTH:g}, not {self.strength}")
        if not 0 <= self.smoothing < math.inf:
            raise UsageError(f"smoothing must be a number of seconds, 0 or more, not {self.smoothing}")
        if self.estimate_every is not None and self.estimate_every < 1:
            raise UsageError(f"estimate_every must be 1 or more, not {self.estimate_every}")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads must be 1 or more, not {self.threads}")
        if not 0 <= self.denoise <= 1:
            raise UsageError(f"denoise must be between 0 and 1, not {self.denoise}")
