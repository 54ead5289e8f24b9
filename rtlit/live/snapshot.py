"""Keeps the picture on the screen as a PNG."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rtlit.errors import OutputError

if TYPE_CHECKING:
    import av
    import numpy as np
    from numpy.typing import NDArray

    from rtlit.live.pipeline import LiveFrame


def save_snapshot(frame: LiveFrame, folder: Path) -> Path:
    """Save `after` as rtlit-YYYYMMDD-HHMMSS.png, or with -2, -3 … where that is there already; makes the folder.

    Returns:
        The file; what it holds appears at once, whole.

    Raises:
        OutputError: it can't be written.
    """
    import pyvips

    from rtlit import files
    from rtlit.image import save

    path = _reserve(folder)
    try:
        files.write(path, save(pyvips.Image.new_from_array(rgb_of(frame.after)), ".png", False, str(path)))
    except OutputError:
        path.unlink(missing_ok=True)
        raise
    return path


def rgb_of(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """R'G'B' [H, W, 3] of a tagged YUV frame, by its own matrix and range."""
    from av.video.reformatter import Interpolation as How

    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=int(frame.colorspace),
        src_color_range=int(frame.color_range),
        dst_color_range="JPEG",
        interpolation=How.BICUBIC | How.ACCURATE_RND | How.FULL_CHR_H_INT,  # with care: a picture is taken once
    )
    return cast("NDArray[np.uint8]", rgb.to_ndarray())


def _reserve(folder: Path) -> Path:
    """A new, empty file: whoever else saves a snapshot this second takes the next name."""
    stem, number = time.strftime("rtlit-%Y%m%d-%H%M%S"), 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            path = folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")
            try:
                path.open("x").close()
                return path
            except FileExistsError:
                number += 1
    except OSError as error:
        raise OutputError(f"{folder}: no snapshot can be saved in it ({error.strerror})") from None
