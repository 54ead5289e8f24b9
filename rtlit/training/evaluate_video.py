"""Score how steady the enhancement of a clip is: as it was, by the unsmoothed network, and smoothed.

Protocol: the clip is reduced to 640 pixels on its longer side and enhanced as a video of 8-bit R'G'B'. Motion and
flicker are then measured at half that size; motion on pairs of frames spread evenly over the clip, along the flow of
the input (of the truth, where it is known: noise and darkness mislead the flow).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from rtlit.enhancer import Enhancer
from rtlit.settings import EnhanceSettings
from rtlit.training.flicker import Clip, Motion, block_gains, jitter, mabd, motions, warping_error
from rtlit.training.footage import Footage, play, reduced
from rtlit.training.metrics import psnr

FLOW_SIDE = 320  # pixels; TV-L1 takes 0.5 s a pair there and back on one core


@dataclass(frozen=True)
class Steadiness:
    """Figures of one version of a clip.

    Attributes:
        e_warp: `warping_error`; of values in 0 … 1, squared. NaN where no pair of frames has anything in common.
        mabd: mean of `mabd` over the frames, 0 … 1.
        gain_jitter: `jitter` of the lift against the input; None for the input itself. All of it is flicker in a
            static scene alone.
        psnr: mean over the frames in dB against the truth; None without one.
        mabd_error: mean squared difference of `mabd` from the truth's; None without one.
    """

    e_warp: float
    mabd: float
    gain_jitter: float | None = None
    psnr: float | None = None
    mabd_error: float | None = None


@dataclass(frozen=True)
class ClipScore:
    """Figures of a clip.

    Attributes:
        versions: "input"; "unsmoothed", the network's estimate of every frame; "ours", with the settings given.
    """

    clip: str
    frames: int
    seconds: float
    versions: dict[str, Steadiness]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which has no NaN; what wasn't measured is left out."""
        return {"clip": self.clip, "frames": self.frames, "seconds": self.seconds} | {
            name: {key: value for key, value in asdict(each).items() if value is not None and value == value}
            for name, each in self.versions.items()
        }


def score_clip(
    footage: Footage,
    settings: EnhanceSettings,
    pairs: int = 24,
    visit: Callable[[dict[str, Clip]], None] | None = None,
) -> ClipScore:
    """Enhance a clip with and without smoothing over time, and measure both and the input.

    Args:
        pairs: pairs of frames to measure motion on.
        visit: called with all versions at 640 pixels, the truth included.
    """
    versions = {"input": footage.frames}
    versions["unsmoothed"] = play(footage, make_enhancer(settings, smoothing=0.0, estimate_every=1))
    versions["ours"] = play(footage, make_enhancer(settings, settings.smoothing, settings.estimate_every))
    if visit:
        visit(versions if footage.truth is None else versions | {"truth": footage.truth})
    along = find_motion(footage, pairs)
    measured = {name: measure_clip(clip, footage, along) for name, clip in versions.items()}
    length = float(footage.seconds[-1] - footage.seconds[0])
    return ClipScore(footage.name, len(footage.frames), length, measured)


def make_enhancer(settings: EnhanceSettings, smoothing: float, estimate_every: int | None) -> Enhancer:
    """An Enhancer with these settings but for its behaviour over time."""
    return Enhancer(**asdict(replace(settings, smoothing=smoothing, estimate_every=estimate_every)))


def find_motion(footage: Footage, pairs: int) -> list[Motion]:
    """Motion of pairs of frames spread evenly over the clip, along the truth where it is known."""
    count = len(footage.frames) - 1
    indices = np.unique(np.linspace(0, count - 1, min(pairs, count)).round().astype(int))
    clip = footage.frames if footage.truth is None else footage.truth
    return motions(_small(clip), [int(index) for index in indices])


def measure_clip(clip: Clip, footage: Footage, along: list[Motion]) -> Steadiness:
    """Figures of one version of the footage, along its motion."""
    small, before = _small(clip), _small(footage.frames)
    gain = None if clip is footage.frames else jitter(block_gains(before, small))
    e_warp, differences = warping_error(small, along), mabd(small)
    if footage.truth is None:
        return Steadiness(e_warp, float(differences.mean()), gain)
    errors = np.square(differences - mabd(_small(footage.truth)))
    decibels = np.mean([psnr(frame, truth) for frame, truth in zip(clip, footage.truth, strict=True)])
    return Steadiness(e_warp, float(differences.mean()), gain, float(decibels), float(errors.mean()))


def _small(clip: Clip) -> Clip:
    return reduced(clip, -(-max(clip.shape[1:3]) // FLOW_SIDE))
