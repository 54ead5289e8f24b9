"""Clips to measure on: real ones, read whole and reduced, and the same in a simulated backlight that drifts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from rtlit.avframe import quarter_turns_of
from rtlit.enhancer import Enhancer
from rtlit.errors import InputError, UsageError
from rtlit.full_resolution import torch_threads
from rtlit.training.evaluate import LONG_SIDE
from rtlit.training.flicker import Clip
from rtlit.training.simulate import SimulationSettings, add_noise, expose, masked_exposure, veil


@dataclass(frozen=True)
class Footage:
    """Frames of a clip, at most 640 pixels a side.

    Attributes:
        name: of the clip.
        frames: R'G'B' [T, H, W, 3] of 8 bits.
        seconds: [T], when each is shown.
        truth: the frames as they should be, where that is known.
    """

    name: str
    frames: Clip
    seconds: NDArray[np.float64]
    truth: Clip | None = None


@dataclass(frozen=True)
class Backlight:
    """A light that drifts, and the noise of a sensor.

    Attributes:
        seed: of the mask, of its exposure (−4 … −2 EV) and of the noise.
        period: seconds in which the exposure swings from full to half and back.
        noise: log10 of the shot-noise variance at linear 1, as in `SimulationSettings`.
        glare: share of the light that is spread over the picture.
    """

    seed: int = 0
    period: float = 4.0
    noise: float = -3.5
    glare: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.period < math.inf:
            raise UsageError(f"period must be a number of seconds above 0, not {self.period}")


def load_footage(path: Path, count: int, warn: Callable[[str], None] = lambda text: None) -> Footage:
    """Read the first `count` frames of a clip, upright, reduced to 640 pixels on the longer side by area means.

    Raises:
        InputError: it can't be read, or has fewer than two frames.
    """
    import av

    from rtlit.video.reader import Reader
    from rtlit.video.settings import VideoSettings

    reader = Reader(path, VideoSettings(), warn)
    frames, seconds = [], []
    try:
        first = reader.prime()
        width, height = _reduced(first.width, first.height)
        for item in reader.items():
            if isinstance(item, av.VideoFrame):
                assert item.time is not None
                small = item.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
                frames.append(np.rot90(small, quarter_turns_of(item)))
                seconds.append(item.time)
                if len(frames) == count:
                    break
    finally:
        reader.close()
    if len(frames) < 2:
        raise InputError(f"{path}: holds a single frame; flicker needs two or more")
    return Footage(path.name, np.stack(frames), np.array(seconds))


def backlit(footage: Footage, light: Backlight | None = None) -> Footage:
    """The footage in a simulated backlight that drifts, with itself as the truth.

    One mask of `rtlit.training.simulate`, which follows the edges of every frame by the same rule, darkens by −2 to
    −4 EV times a factor that swings between 1 and ½ as a cosine; then veiling glare, fresh noise in every frame, and
    8 bits.
    """
    light = light or Backlight()
    settings = SimulationSettings(foreground=(-4.0, -2.0))
    noise = torch.Generator().manual_seed(light.seed + 1)
    dark = np.empty_like(footage.frames)
    with torch_threads(1):
        for index, (frame, at) in enumerate(zip(footage.frames, footage.seconds, strict=True)):
            truth = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
            # The same draws for every frame: one light.
            ev = masked_exposure(truth, settings, torch.Generator().manual_seed(light.seed))
            ev = ev * (0.75 + 0.25 * math.cos(2 * math.pi * (at - footage.seconds[0]) / light.period))
            linear = veil(expose(truth.pow(2.2), ev), torch.tensor(light.glare))
            linear = add_noise(linear, torch.tensor(light.noise), noise)
            dark[index] = _codes(linear.clamp(0, 1).pow(1 / 2.2))
    return replace(footage, frames=dark, truth=footage.frames)


def play(footage: Footage, enhancer: Enhancer) -> Clip:
    """The frames enhanced one after the other as a video, after a fresh start."""
    enhancer.reset()
    pairs = zip(footage.frames, footage.seconds, strict=True)
    return np.stack([enhancer(frame, float(at)) for frame, at in pairs])


def reduced(clip: Clip, factor: int) -> Clip:
    """Every frame reduced by a whole factor by area means."""
    return np.stack([np.asarray(Image.fromarray(frame).reduce(factor)) for frame in clip]) if factor > 1 else clip


def _codes(picture: torch.Tensor) -> NDArray[np.uint8]:
    codes: NDArray[np.uint8] = (picture[0].permute(1, 2, 0) * 255).round().byte().numpy()
    return codes


def _reduced(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, LONG_SIDE / max(width, height))
    return max(16, round(width * scale)), max(16, round(height * scale))
