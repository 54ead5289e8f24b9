"""How close a picture comes to the truth: PSNR, SSIM, CIEDE2000 and brightness, on 8-bit R'G'B'."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import structural_similarity

Picture = NDArray[np.uint8]  # [H, W, 3]
PERFECT_PSNR = 100.0


@dataclass(frozen=True)
class Metrics:
    """What `measure` says of one picture.

    Attributes:
        psnr: dB; 100 for identical pictures.
        ssim: −1 … 1.
        delta_e: mean CIEDE2000; about 1 is just visible.
        brightness: mean code of all channels / 255 (of the picture, not of the truth).
    """

    psnr: float
    ssim: float
    delta_e: float
    brightness: float


def measure(picture: Picture, truth: Picture) -> Metrics:
    """All metrics of a picture against the truth of the same size (at least 11 pixels a side)."""
    return Metrics(psnr(picture, truth), ssim(picture, truth), delta_e(picture, truth), brightness(picture))


def psnr(picture: Picture, truth: Picture) -> float:
    """Peak signal-to-noise ratio in dB over all channels; `PERFECT_PSNR` where nothing differs."""
    error = np.square(picture.astype(np.float32) - truth).mean(dtype=np.float64)
    return float(10 * np.log10(255**2 / error)) if error else PERFECT_PSNR


def ssim(picture: Picture, truth: Picture) -> float:
    """Structural similarity (Wang et al. 2004): Gaussian window of σ 1.5 (11 pixels), population covariance,
    mean over the three channels. In float32: 1.5 times as fast, the same to six decimals."""
    return float(
        structural_similarity(
            truth.astype(np.float32),
            picture.astype(np.float32),
            data_range=255,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def delta_e(picture: Picture, truth: Picture) -> float:
    """Mean CIEDE2000 colour difference (sRGB, D65) of every second pixel of every second row."""
    lab = [rgb2lab(each[::2, ::2].astype(np.float32) / 255) for each in (truth, picture)]
    return float(deltaE_ciede2000(*lab).mean(dtype=np.float64))


def brightness(picture: Picture) -> float:
    """Mean code of all channels, 0 … 1."""
    return float(picture.mean() / 255)
