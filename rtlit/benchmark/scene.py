"""A backlit scene to measure on, made rather than filmed: the same everywhere, at any size, of any length.

Discs of many sizes that hide one another (dead leaves) have what makes a photograph hard for an encoder and uneven for
the curves: edges at all scales and the spectrum of natural pictures (A. B. Lee, D. Mumford, J. Huang, "Occlusion Models
for Natural Images", 2001). The middle lies in daylight; the rest is four and a half stops darker. The camera pans, and
its noise is new in each frame.

Beside six filmed clips at 720p on one core: enhancing 10 ms a frame (filmed ones 10 to 14), x264 veryfast at CRF 18
15 ms (11 to 20), decoding that 3 ms (3 to 9).
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from rtlit.avframe import planes_of

FPS = 30
_MASTER = (1080, 1920)  # 4K is scaled up from it: few cameras resolve more
_DISCS = 4000
_SMALLEST, _LARGEST = 4, 400  # radii in the master
_MARGIN = 64  # in pixels of the frame; the camera pans over it
_STEP = 2
_NOISE = 1.4  # standard deviation in codes of luma, half as much in chroma
_SHADE = 0.04  # the light outside of the window
_WINDOW = slice(108, 740), slice(576, 1440)  # rows, columns of the master
_BT709, _LIMITED = 1, 1


class Scene:
    """Frames of the scene in one size, yuv420p of BT.709, limited range, at 30 a second.

    The view begins again after 64 frames, in which it pans to and fro.
    """

    def __init__(self, width: int, height: int) -> None:
        """Sizes are even numbers of pixels."""
        self.width, self.height = width, height
        whole = av.VideoFrame.from_ndarray(_master(), "rgb24").reformat(
            width + _MARGIN, height + _MARGIN, "yuv420p", dst_colorspace="ITU709", interpolation="AREA"
        )
        self._planes = [plane.astype(np.int16) for plane in planes_of(whole)]
        noise = np.random.default_rng(1).standard_normal(self._planes[0].shape, np.float32) * _NOISE
        self._noise = [np.rint(share * noise).astype(np.int16) for share in (1, 0.5)]

    def frame(self, index: int) -> av.VideoFrame:
        """The frame at index / 30 s, 0 or later."""
        frame = av.VideoFrame(self.width, self.height, "yuv420p")
        frame.pts, frame.time_base = index, Fraction(1, FPS)
        frame.colorspace, frame.color_range = _BT709, _LIMITED
        turn = _MARGIN // _STEP
        at = _STEP * (turn - abs(index % (2 * turn) - turn))
        down, right = (37 * index) % _MARGIN, (23 * index) % _MARGIN  # the noise jumps, as no picture does
        for number, (target, source) in enumerate(zip(planes_of(frame), self._planes, strict=True)):
            rows, columns = target.shape
            left = at // 2 if number else at
            noise = self._noise[number > 0][down : down + rows, right + number : right + number + columns]
            view = source[left // 2 : left // 2 + rows, left : left + columns]
            np.clip(view + noise, 0, 255, out=target, casting="unsafe")
        return frame


@lru_cache(1)
def _master() -> NDArray[np.uint8]:
    """R'G'B' [1080, 1920, 3]."""
    rng = np.random.default_rng(0)
    height, width = _MASTER
    reflected = np.full((height, width, 3), 0.3, np.float32)  # linear
    # Radii of density r^-3: as many details at every scale. The nearest are drawn last.
    share = rng.random(_DISCS)
    radii = (_SMALLEST**-2 * (1 - share) + _LARGEST**-2 * share) ** -0.5
    for radius, y, x in zip(radii, rng.random(_DISCS) * height, rng.random(_DISCS) * width, strict=True):
        top, left = max(0, int(y - radius)), max(0, int(x - radius))
        part = reflected[top : int(y + radius) + 1, left : int(x + radius) + 1]
        rows, columns = np.ogrid[top : top + part.shape[0], left : left + part.shape[1]]
        part[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = _surface(rng)
    light = np.full((height, width, 1), _SHADE, np.float32)
    light[_WINDOW] = 1
    codes: NDArray[np.uint8] = np.rint(255 * np.minimum(1, reflected * light) ** (1 / 2.2)).astype(np.uint8)
    return codes


def _surface(rng: np.random.Generator) -> NDArray[Any]:
    """The reflectance of a disc: a grey with a little colour."""
    return np.clip(rng.uniform(0.05, 1.1) * rng.uniform(0.7, 1.3, 3), 0, 1.2)
