"""Contact sheets: pictures side by side with their figures, as one HTML or PNG file that a person can open."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw
from PIL.Image import Resampling

from rtlit import files
from rtlit.errors import OutputError, UsageError
from rtlit.training.metrics import Picture

Order = Literal["worst", "name"]
_WIDTH = {".html": 480, ".png": 320}  # of a picture, pixels
_LINE = 14  # pixels above each row of a PNG, for its text
_PLAIN = str.maketrans({"→": ">", "Δ": "d", "×": "x", "³": "^3"})  # Pillow's own font lacks them
# Mid grey, which makes neither dark nor bright pictures look better than they are.
_STYLE = """body { background: #777; color: #fff; font: 14px system-ui, sans-serif; margin: 1em }
section { margin: 0 0 1.5em } h2 { font-size: 15px; margin: 0 } p { margin: 0 0 .3em; color: #eee }
div { display: flex; gap: 4px } figure { margin: 0; flex: 1; max-width: 640px }
img { width: 100%; max-height: 90vh; object-fit: contain; object-position: left; display: block }
figcaption { font-size: 12px; color: #ddd }"""


@dataclass(frozen=True)
class _Row:
    name: str
    text: str
    rank: float
    pictures: dict[str, Image.Image | bytes]


class Sheet:
    """Rows of pictures for a file.

    >>> sheet = Sheet(Path("sheet.html"))
    >>> sheet.add("0001", {"input": picture, "ours": output, "truth": truth}, "PSNR 21.3 dB", rank=21.3)
    >>> sheet.write()
    """

    def __init__(self, path: Path, title: str = "rtlit", order: Order = "worst") -> None:
        """Prepare a sheet, so that a wrong name is known before the work begins.

        Args:
            order: "worst" puts the lowest rank first, "name" goes by name.

        Raises:
            UsageError: the name ends neither in .html nor in .png. OutputError: its folder isn't there.
        """
        if path.suffix.lower() not in _WIDTH:
            raise UsageError(f"{path}: a contact sheet is .html or .png; end its name so")
        if path.is_dir() or not path.parent.is_dir():
            raise OutputError(f"{path}: can't be written (no such folder, or a folder itself); choose another --sheet")
        self.path, self.title, self.order = path, title, order
        self._rows: list[_Row] = []

    def add(self, name: str, pictures: dict[str, Picture], text: str, rank: float = 0.0) -> None:
        """Remember a row.

        Args:
            pictures: title of each → uint8 R'G'B' [H, W, 3].
            text: its figures, in a line. rank: the lower, the worse.
        """
        self._rows.append(_Row(name, text, rank, {title: self._small(each) for title, each in pictures.items()}))

    def write(self) -> None:
        """Write the file, whole or not at all.

        Raises:
            OutputError: it can't be written.
        """
        rows = sorted(self._rows, key=lambda row: (row.rank if self.order == "worst" else 0.0, row.name))
        data = _page(self.title, rows).encode("utf-8", "replace") if self.path.suffix.lower() == ".html" else _png(rows)
        try:
            files.write(self.path, data)
        except OutputError as error:
            raise OutputError(f"{error}; choose another --sheet") from None

    def _small(self, picture: Picture) -> Image.Image | bytes:
        width = _WIDTH[self.path.suffix.lower()]
        image = Image.fromarray(np.ascontiguousarray(picture))
        image.thumbnail((width, width), Resampling.LANCZOS)
        if self.path.suffix.lower() == ".png":
            return image
        file = BytesIO()
        image.save(file, "JPEG", quality=90, subsampling=0)
        return file.getvalue()


def _page(title: str, rows: Sequence[_Row]) -> str:
    body = "\n".join(
        f"<section><h2>{html.escape(row.name)}</h2><p>{html.escape(row.text)}</p><div>{_figures(row)}</div></section>"
        for row in rows
    )
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f"<!doctype html>\n<html lang=en>{head}\n<h1>{html.escape(title)}</h1>\n{body}\n"


def _figures(row: _Row) -> str:
    figures = []
    for title, data in row.pictures.items():
        assert isinstance(data, bytes)
        image = f'<img src="data:image/jpeg;base64,{base64.b64encode(data).decode()}" alt="{html.escape(title)}">'
        figures.append(f"<figure>{image}<figcaption>{html.escape(title)}</figcaption></figure>")
    return "".join(figures)


def _png(rows: Sequence[_Row]) -> bytes:
    width = _WIDTH[".png"]
    strips = [[each for each in row.pictures.values() if isinstance(each, Image.Image)] for row in rows]
    heights = [_LINE + max(each.height for each in strip) for strip in strips]
    sheet = Image.new("RGB", (width * max(map(len, strips)), sum(heights)), "#777")
    top = 0
    for row, strip, height in zip(rows, strips, heights, strict=True):
        text = f"{row.name}: {' | '.join(row.pictures)}   {row.text}".translate(_PLAIN)
        ImageDraw.Draw(sheet).text((2, top + 1), text, "white")
        for index, image in enumerate(strip):
            sheet.paste(image, (index * width, top + _LINE))
        top += height
    file = BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()
