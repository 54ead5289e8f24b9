"""What a browser is sent of a frame: the parts of both sides that it shows, as JPEG, in one message."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from rtlit.errors import UsageError

if TYPE_CHECKING:
    import av
    import pyvips

    from rtlit.live.pipeline import LiveFrame

Side = Literal["before", "after"]
Rgb = NDArray[np.uint8]  # [H, W, 3]

_BLOCK = 16  # pixels: a part begins between two blocks of chroma
_MAX_PIXELS = 16384  # a side; what a browser may ask for
_SMALLEST = 16
_local = threading.local()


@dataclass(frozen=True)
class View:
    """What a viewer shows.

    Attributes:
        width, height: of the room for the picture, in device pixels.
        before, after: (from, to) of each side's columns that are needed, 0 … 1; None: nothing of it.
    """

    width: int
    height: int
    before: tuple[float, float] | None
    after: tuple[float, float] | None

    @classmethod
    def from_message(cls, message: Any) -> View:
        """From what the page sends.

        Raises:
            UsageError: it isn't a view.
        """
        try:
            width, height = (int(message[name]) for name in ("width", "height"))
            before, after = (_span(message[name]) for name in ("before", "after"))
            if 0 < width <= _MAX_PIXELS and 0 < height <= _MAX_PIXELS:
                return cls(width, height, before, after)
        except (KeyError, TypeError, ValueError, OverflowError):
            pass
        raise UsageError(f"{message!r:.200} is not a view; see app.js")

    def fit(self, width: int, height: int, reduce: float = 1.0) -> tuple[int, int]:
        """The size that a frame is sent in: as large as there is room, never enlarged, times `reduce`."""
        scale = reduce * min(1.0, self.width / width, self.height / height)
        least = (min(_SMALLEST, width), min(_SMALLEST, height))
        return max(least[0], round(width * scale)), max(least[1], round(height * scale))


class Pictures:
    """A frame's pictures, each made once, however many viewers want it. For one event loop."""

    def __init__(self, frame: LiveFrame, pool: Executor) -> None:
        self.frame = frame
        self._pool = pool
        self._made: dict[tuple[Any, ...], Future[Any]] = {}

    async def message(self, view: View, reduce: float, quality: int) -> bytes:
        """A header (JSON after its length, a little-endian uint32) and the parts, `before` first.

        The header has the frame's number, the picture's width and height, and for each side its
        [first column, column after the last, bytes] or null.
        """
        size = view.fit(self.frame.after.width, self.frame.after.height, reduce)
        sides: tuple[Side, Side] = ("before", "after")
        columns = [_columns(getattr(view, side), size[0]) for side in sides]
        parts = await asyncio.gather(
            *(self._part(side, size, span, quality) for side, span in zip(sides, columns, strict=True))
        )
        header: dict[str, Any] = {"number": self.frame.number, "width": size[0], "height": size[1]}
        for side, span, part in zip(sides, columns, parts, strict=True):
            header[side] = [*span, len(part)] if span else None
        return packed(header, *parts)

    async def snapshot(self) -> bytes:
        """The enhanced picture in full size, as PNG, in a message as of `message`."""
        rgb = await self._once(to_rgb, self.frame.after, (self.frame.after.width, self.frame.after.height))
        return packed({"snapshot": self.frame.number}, await self._once(_png, rgb))

    async def _part(self, side: Side, size: tuple[int, int], columns: tuple[int, int] | None, quality: int) -> bytes:
        if columns is None:
            return b""
        frame: av.VideoFrame = getattr(self.frame, side)
        rgb = await self._once(to_rgb, frame, size)
        return bytes(await self._once(jpeg, rgb, columns, quality))

    async def _once(self, make: Callable[..., Any], subject: Any, *args: Any) -> Any:
        key = (make, id(subject), *args)  # the frame and its pictures live as long as this
        if key not in self._made:
            self._made[key] = self._pool.submit(make, subject, *args)
        # Shielded: a viewer that leaves must not take the picture from the others.
        return await asyncio.shield(asyncio.wrap_future(self._made[key]))


def packed(header: dict[str, Any], *parts: bytes) -> bytes:
    """A header and what it speaks of, in one message."""
    text = json.dumps(header).encode()
    return b"".join((struct.pack("<I", len(text)), text, *parts))


def to_rgb(frame: av.VideoFrame, size: tuple[int, int]) -> Rgb:
    """A tagged yuv420p frame as R'G'B' [H, W, 3] of `size` (width, height)."""
    from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

    # Not frame.reformat: that keeps its scaler in the frame, which other threads convert as well.
    if not hasattr(_local, "scaler"):
        _local.scaler = VideoReformatter()
    rgb: av.VideoFrame = _local.scaler.reformat(
        frame,
        *size,
        "rgb24",
        src_colorspace=frame.colorspace,
        src_color_range=frame.color_range,
        dst_colorspace=frame.colorspace,
        dst_color_range=ColorRange.JPEG,
        interpolation=Interpolation.BILINEAR,
        threads=1,
    )
    return cast(Rgb, rgb.to_ndarray())


def jpeg(rgb: Rgb, columns: tuple[int, int], quality: int) -> bytes:
    """Columns of a picture as JPEG, 4:2:0."""
    image = _image(rgb[:, columns[0] : columns[1]])
    data: bytes = image.jpegsave_buffer(Q=quality, subsample_mode="on")
    return data


def _png(rgb: Rgb) -> bytes:
    data: bytes = _image(rgb).pngsave_buffer(compression=3)
    return data


def _image(rgb: Rgb) -> pyvips.Image:
    """Not Pillow's, which is as fast but holds the interpreter's lock: 4 ms at 720p that the enhancement would wait."""
    import pyvips

    return pyvips.Image.new_from_array(np.ascontiguousarray(rgb), interpretation="srgb")


def _span(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    begin, end = (float(each) for each in value)
    if not 0 <= begin < end <= 1:
        raise ValueError
    return begin, end


def _columns(span: tuple[float, float] | None, width: int) -> tuple[int, int] | None:
    if span is None:
        return None
    begin = min(int(span[0] * width), width - 1) // _BLOCK * _BLOCK
    return begin, min(width, -(-int(span[1] * width) // _BLOCK) * _BLOCK)
