"""Words over the picture: panels of text, drawn by Pillow once and kept as textures."""

from __future__ import annotations

import unicodedata
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, Literal

from PIL import Image, ImageDraw, ImageFont

from rtlit.live.picture import Rect
from rtlit.live.sdl import sdl2

Color = tuple[int, int, int, int]
Place = Literal["top left", "top right", "center", "bottom"]

# White on nearly black: legible on any picture, also without colours.
_GROUND: Color = (16, 16, 18, 222)
_INK, _KEY_INK, _RED = (255, 255, 255), (255, 214, 120), (235, 45, 45)
_KEPT = 24  # textures
_SMOOTH = 4  # corners and the dot are drawn so many times larger


@dataclass(frozen=True)
class Panel:
    """Text on a dark ground.

    Attributes:
        rows: lines of one column, or of pairs of them: the name of a key and what it does.
        place: where; panels of the same place stand below each other.
        dot: a red dot before the text.
    """

    rows: tuple[tuple[str, ...], ...]
    place: Place
    dot: bool = False

    @classmethod
    def of(cls, text: str, place: Place, *, columns: int = 60, dot: bool = False) -> Panel:
        """Text that is broken into lines of at most `columns` letters."""
        return cls(tuple((line,) for part in text.splitlines() for line in wrap(part, columns)), place, dot)


@dataclass(frozen=True)
class _Drawn:
    texture: Any
    width: int
    height: int


class Overlay:
    """Panels on a renderer's output."""

    def __init__(self, renderer: Any) -> None:
        self._renderer = renderer
        self._kept: OrderedDict[tuple[Panel, int], _Drawn] = OrderedDict()

    def draw(self, panels: Sequence[Panel], output: tuple[int, int], scale: float) -> None:
        """Draw panels where they belong.

        Args:
            output: (width, height) in pixels.
            scale: pixels of the output to one of the desktop's.
        """
        size = text_size(output, scale)
        gap = size
        for place in dict.fromkeys(panel.place for panel in panels):
            stack = [self._fitting(panel, size, output) for panel in panels if panel.place == place]
            total = sum(each.height for each in stack) + gap * (len(stack) - 1)
            top = {"center": (output[1] - total) // 2, "bottom": output[1] - 4 * gap - total}.get(place, gap)
            for each in stack:
                left = {"top left": gap, "top right": output[0] - gap - each.width}.get(
                    place, (output[0] - each.width) // 2
                )
                self._copy(each, left, top)
                top += each.height + gap

    def label(self, text: str, at: tuple[int, int], side: Literal["left", "right"], room: Rect, size: int) -> None:
        """Draw a word beside a line at x = at[0], its lower edge at at[1], unless it would leave `room`."""
        drawn = self._drawn(Panel(((text,),), "bottom"), size)
        left = at[0] - size // 2 - drawn.width if side == "left" else at[0] + size // 2
        if room.x <= left and left + drawn.width <= room.x + room.width:
            self._copy(drawn, left, at[1] - drawn.height)

    def forget(self) -> None:
        """Give all textures back; the next drawing makes them anew."""
        for drawn in self._kept.values():
            sdl2.SDL_DestroyTexture(drawn.texture)
        self._kept.clear()

    def _copy(self, drawn: _Drawn, left: int, top: int) -> None:
        target = sdl2.SDL_Rect(left, top, drawn.width, drawn.height)
        sdl2.SDL_RenderCopy(self._renderer, drawn.texture, None, target)

    def _fitting(self, panel: Panel, size: int, output: tuple[int, int]) -> _Drawn:
        drawn = self._drawn(panel, size)
        fit = min((output[0] - size) / drawn.width, (output[1] - size) / drawn.height)
        return drawn if fit >= 1 else self._drawn(panel, max(6, int(size * fit)))

    def _drawn(self, panel: Panel, size: int) -> _Drawn:
        key = panel, size
        if key not in self._kept:
            self._kept[key] = self._texture(paint(panel, size))
            if len(self._kept) > _KEPT:
                sdl2.SDL_DestroyTexture(self._kept.popitem(last=False)[1].texture)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _texture(self, image: Image.Image) -> _Drawn:
        kind, access = sdl2.SDL_PIXELFORMAT_RGBA32, sdl2.SDL_TEXTUREACCESS_STATIC
        texture = sdl2.SDL_CreateTexture(self._renderer, kind, access, image.width, image.height)
        sdl2.SDL_UpdateTexture(texture, None, image.tobytes(), 4 * image.width)
        sdl2.SDL_SetTextureBlendMode(texture, sdl2.SDL_BLENDMODE_BLEND)
        return _Drawn(texture, image.width, image.height)


def text_size(output: tuple[int, int], scale: float) -> int:
    """Height of letters in pixels: as the desktop's, larger on a large window or screen and smaller in a small one."""
    width, height = output
    return round(max(min(15 * scale, width / 40, height / 22), min(width / 60, height / 42)))


def paint(panel: Panel, size: int) -> Image.Image:
    """A panel as R'G'B' and opacity."""
    font = ImageFont.load_default(size)
    rows = [tuple(_printable(cell) for cell in row) for row in panel.rows]
    columns = max((len(row) for row in rows), default=0)
    widths = [max((font.getlength(row[i]) for row in rows if i < len(row)), default=0) for i in range(columns)]
    line, pad, between = round(1.35 * size), round(0.6 * size), round(1.2 * size)
    lead = line if panel.dot else 0
    width = round(sum(widths)) + between * max(0, columns - 1) + 2 * pad + lead
    image = _rounded(width, line * len(rows) + pad, pad)
    draw = ImageDraw.Draw(image)
    if panel.dot:
        disc = Image.new("L", (_SMOOTH * size, _SMOOTH * size))
        ImageDraw.Draw(disc).ellipse((0, 0, *disc.size), fill=255)
        disc = disc.resize((round(0.7 * size),) * 2, Image.Resampling.BOX)
        image.paste(_RED, (pad, (image.height - disc.height) // 2), disc)
    for i, row in enumerate(rows):
        left = float(pad + lead)
        for j, (cell, column) in enumerate(zip(row, widths, strict=False)):
            ink = _KEY_INK if j % 2 == 0 and columns > 1 else _INK
            draw.text((left, pad // 2 + line * i + line // 2), cell, (*ink, 255), font, anchor="lm")
            left += column + between
    return image


def _rounded(width: int, height: int, radius: int) -> Image.Image:
    mask = Image.new("L", (_SMOOTH * width, _SMOOTH * height))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, mask.width - 1, mask.height - 1), _SMOOTH * radius, fill=_GROUND[3])
    image = Image.new("RGBA", (width, height), _GROUND[:3])
    image.putalpha(mask.resize((width, height), Image.Resampling.BOX))
    return image


def _printable(text: str) -> str:
    """The text in the letters of Pillow's own font, which are ASCII's and few more: é becomes e, × becomes x."""
    plain = unicodedata.normalize("NFKD", text.replace("×", "x").replace("–", "-").replace("—", "-"))
    return "".join(c if c.isascii() else "?" for c in plain if not unicodedata.combining(c))
