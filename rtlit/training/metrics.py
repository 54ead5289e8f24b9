"""What one picture looks like, and how close it comes to the truth, on 8-bit R'G'B'."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import structural_similarity

Picture = NDArray[np.uint8]  # [H, W, 3]
PERFECT_PSNR = 100.0
DARK, BRIGHT = 32, 250  # luma codes below and above which detail is hard to see, or nearly clipped
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


@dataclass(frozen=True)
class Look:
    """What `look` says of one picture, without a truth.

    Attributes:
        brightness: mean code of all channels / 255.
        luma: mean BT.709 luma, 0 … 1.
        contrast: RMS contrast, the standard deviation of luma (Peli 1990), 0 … 0.5.
        dark: share of pixels with a luma below 32/255.
        bright: share of pixels with a luma above 250/255.
    """

    brightness: float
    luma: float
    contrast: float
    dark: float
    bright: float


@dataclass(frozen=True)
class Metrics:
    """What `measure` says of one picture against the truth.

    Attributes:
        psnr: dB; 100 for identical pictures.
        ssim: −1 … 1.
        delta_e: mean CIEDE2000; about 1 is just visible.
    """

    psnr: float
    ssim: float
    delta_e: float


def look(picture: Picture) -> Look:
    """No-reference figures of a picture."""
    tones = luma(picture)
    mean, spread = tones.mean(dtype=np.float64), tones.std(dtype=np.float64)
    dark, bright = (tones < DARK / 255).mean(), (tones > BRIGHT / 255).mean()
    return Look(brightness(picture), float(mean), float(spread), float(dark), float(bright))


def luma(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """BT.709 luma in 0 … 1 of R'G'B' [..., 3]."""
    return (pictures @ _LUMA) / np.float32(255)


def measure(picture: Picture, truth: Picture) -> Metrics:
    """All metrics of a picture against the truth of the same size (at least 11 pixels a side)."""
    return Metrics(psnr(picture, truth), ssim(picture, truth), delta_e(picture, truth))


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
