"""Before and after as textures: planes go to SDL as they are, which makes R'G'B' of them where it draws."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rtlit.avframe import color_of, new_like, planes_of
from rtlit.errors import DeviceError
from rtlit.live.sdl import sdl2, sdl_error

if TYPE_CHECKING:
    import av

# SDL 2 has no BT.709 of full range and no BT.2020.
_MODES = {
    ("bt601", True): sdl2.surface.SDL_YUV_CONVERSION_JPEG,
    ("bt601", False): sdl2.surface.SDL_YUV_CONVERSION_BT601,
    ("bt709", False): sdl2.surface.SDL_YUV_CONVERSION_BT709,
}
_TAGS = {"bt601": 6, "bt709": 1, "bt2020": 9}  # ITU-T H.273 table 4
_LIMITED, _FULL = 1, 2  # AVCOL_RANGE_MPEG, AVCOL_RANGE_JPEG


@dataclass(frozen=True)
class Rect:
    """Pixels of the renderer's output."""

    x: int
    y: int
    width: int
    height: int

    def sdl(self) -> Any:
        return sdl2.SDL_Rect(self.x, self.y, self.width, self.height)


def letterbox(picture: tuple[int, int], output: tuple[int, int]) -> Rect:
    """The largest place for a picture (width, height) in the middle of an output, in its own proportions."""
    (width, height), (room_x, room_y) = picture, output
    if width * room_y > height * room_x:
        fitted = room_x, max(1, round(height * room_x / width))
    else:
        fitted = max(1, round(width * room_y / height)), room_y
    return Rect((room_x - fitted[0]) // 2, (room_y - fitted[1]) // 2, *fitted)


class Texture:
    """One picture of the renderer's, which a frame is uploaded to when it is another than before."""

    def __init__(self, renderer: Any) -> None:
        self._renderer, self._texture = renderer, None
        self._key: tuple[int, int, int] | None = None
        self._frame: av.VideoFrame | None = None
        self._flipped = False

    def upload(self, frame: av.VideoFrame, flip: bool = False) -> None:
        """Take a frame in yuv420p, with `flip` left and right exchanged.

        Raises:
            DeviceError: SDL has no texture of its size.
        """
        if frame is self._frame and flip == self._flipped:
            return
        shown = _flipped(_displayable(frame)) if flip else _displayable(frame)
        color = color_of(shown)
        mode = _MODES[color.matrix, color.full_range]
        # One setting for all of SDL: some renderers heed it when a texture is made, some at the upload, some when it is
        # drawn. Both pictures of a frame are of one colour space.
        sdl2.SDL_SetYUVConversionMode(mode)
        if self._key != (shown.width, shown.height, mode):
            self.forget()
            self._texture = sdl2.SDL_CreateTexture(
                self._renderer,
                sdl2.SDL_PIXELFORMAT_IYUV,
                sdl2.SDL_TEXTUREACCESS_STREAMING,
                shown.width,
                shown.height,
            )
            if not self._texture:
                raise DeviceError(f"no picture of {shown.width}×{shown.height} can be shown: {sdl_error()}")
            sdl2.SDL_SetTextureScaleMode(self._texture, sdl2.SDL_ScaleModeLinear)
            self._key = shown.width, shown.height, mode
        planes = [
            each
            for plane in shown.planes
            for each in (ctypes.cast(plane.buffer_ptr, ctypes.POINTER(ctypes.c_uint8)), plane.line_size)
        ]
        if sdl2.SDL_UpdateYUVTexture(self._texture, None, *planes):
            raise DeviceError(f"the picture can't be shown: {sdl_error()}")
        self._frame, self._flipped = frame, flip

    def draw(self, place: Rect, clip: Rect, mirror: bool) -> None:
        """Draw it to fill `place`, but no pixel outside `clip`."""
        sdl2.SDL_RenderSetClipRect(self._renderer, clip.sdl())
        if mirror:
            flip = sdl2.SDL_FLIP_HORIZONTAL
            sdl2.SDL_RenderCopyEx(self._renderer, self._texture, None, place.sdl(), 0.0, None, flip)
        else:
            sdl2.SDL_RenderCopy(self._renderer, self._texture, None, place.sdl())
        sdl2.SDL_RenderSetClipRect(self._renderer, None)

    def forget(self) -> None:
        """Give the texture back; the next upload makes one anew."""
        if self._texture:
            sdl2.SDL_DestroyTexture(self._texture)
        self._texture = self._key = self._frame = None


def _flipped(frame: av.VideoFrame) -> av.VideoFrame:
    flipped = new_like(frame)
    for source, target in zip(planes_of(frame), planes_of(flipped), strict=True):
        target[...] = source[:, ::-1]
    return flipped


def _displayable(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame, or what SDL has no matrix for as BT.709 of limited range."""
    color = color_of(frame)
    if (color.matrix, color.full_range) in _MODES:
        return frame
    shown = frame.reformat(
        format="yuv420p",
        src_colorspace=_TAGS[color.matrix],
        dst_colorspace=_TAGS["bt709"],
        src_color_range=_FULL if color.full_range else _LIMITED,
        dst_color_range=_LIMITED,
    )
    shown.colorspace, shown.color_range = _TAGS["bt709"], _LIMITED
    return shown
