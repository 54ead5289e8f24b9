"""Sheets of a few pictures, input beside enhanced, to watch a run by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from rtlit.training.photos import load_photos
from rtlit.training.runs import replace_file

_SIDE = 384  # longer side of a picture, pixels
_LINE = 14


class SampleSheet:
    """The same pictures again and again, at their own aspect ratio."""

    def __init__(self, paths: Sequence[Path], count: int, device: torch.device) -> None:
        """Take `count` pictures, spread evenly over the list."""
        chosen = [paths[index * len(paths) // count] for index in range(min(count, len(paths)))]
        self.pictures = [each[None].to(device).float() / 255 for each in load_photos(chosen, _SIDE)]

    @torch.no_grad()
    def write(self, path: Path, enhance: Callable[[Tensor], Tensor], score: Callable[[Tensor], Tensor]) -> None:
        """Write a PNG: a row a picture, with the P(backlit) that `score` gives.

        Raises:
            OutputError: it can't be written.
        """
        rows = [_row(picture, enhance(picture), score) for picture in self.pictures]
        sheet = Image.new("RGB", (2 * _SIDE, sum(row.height for row in rows)), "white")
        top = 0
        for row in rows:
            sheet.paste(row, (0, top))
            top += row.height
        replace_file(path, lambda part: sheet.save(part, "PNG"))


def _row(picture: Tensor, enhanced: Tensor, score: Callable[[Tensor], Tensor]) -> Image.Image:
    row = Image.new("RGB", (2 * _SIDE, picture.shape[-2] + _LINE), "white")
    for index, each in enumerate((picture, enhanced)):
        codes = (each[0] * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        row.paste(Image.fromarray(np.ascontiguousarray(codes)), (index * _SIDE, _LINE))
        ImageDraw.Draw(row).text((index * _SIDE + 2, 1), f"P(backlit) {float(score(each)):.3f}", "black")
    return row
