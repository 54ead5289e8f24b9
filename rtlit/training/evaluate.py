"""Score an enhancer on pairs of pictures: a dark one, and how it should have been.

Protocol: a pair shares its file name (without suffix); each picture is reduced to 640 pixels on its longer
side (Lanczos, never enlarged), enhanced at that size, rounded to 8 bits and compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from rtlit.errors import InputError, OutputError, RtlitError
from rtlit.training.metrics import Metrics, Picture, brightness, measure

LONG_SIDE = 640
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})
_SHEET_COLUMN = 320  # pixels

Enhance = Callable[[Picture], Picture]


@dataclass(frozen=True)
class Score:
    """What an enhancer made of one pair.

    Attributes:
        name: file name without suffix.
        group: the word before the first `_` of the name (`fivek_a0212` → fivek), else "all".
        output: the enhanced picture against the truth.
        input: the picture as it was against the truth; None when not asked for.
        truth_brightness: mean code of the truth, 0 … 1.
    """

    name: str
    group: str
    output: Metrics
    input: Metrics | None
    truth_brightness: float


@dataclass(frozen=True)
class Pair:
    """Two files of the same name."""

    name: str
    input: Path
    truth: Path

    @property
    def group(self) -> str:
        """See `Score.group`."""
        match = re.match(r"[A-Za-z]+(?=_)", self.name)
        return match[0] if match else "all"

    def load(self) -> tuple[Picture, Picture]:
        """Input and truth, reduced.

        Raises:
            InputError: a picture can't be read, or their sizes differ.
        """
        picture, truth = load_picture(self.input), load_picture(self.truth)
        if picture.shape != truth.shape:
            sizes = " and ".join(f"{each.shape[1]}×{each.shape[0]}" for each in (picture, truth))
            raise InputError(f"{self.input}: its size differs from {self.truth} ({sizes} at {LONG_SIDE} px); crop one")
        return picture, truth


def evaluate(
    input_dir: Path,
    gt_dir: Path,
    enhance: Enhance,
    pattern: str = "*",
    limit: int | None = None,
    *,
    baseline: bool = True,
    visit: Callable[[str, Picture, Picture, Picture], None] | None = None,
) -> list[Score]:
    """Score `enhance` on the pictures that two folders share.

    Args:
        enhance: uint8 R'G'B' [H, W, 3] → the same.
        pattern: shell pattern that names (without suffix) must match.
        limit: only the first so many pairs.
        baseline: also score the inputs as they are, which doubles the time.
        visit: called with name, input, output and truth of each pair.

    Raises:
        InputError: a folder is missing, no name is in both, a picture can't be read, or sizes differ.
    """
    scores = []
    for pair in find_pairs(input_dir, gt_dir, pattern)[:limit]:
        picture, truth = pair.load()
        output = _enhanced(enhance, picture, pair)
        before = measure(picture, truth) if baseline else None
        scores.append(Score(pair.name, pair.group, measure(output, truth), before, brightness(truth)))
        if visit:
            visit(pair.name, picture, output, truth)
    return scores


def find_pairs(input_dir: Path, gt_dir: Path, pattern: str = "*") -> list[Pair]:
    """Pictures of the same name in both folders, by name.

    Raises:
        InputError: a folder is missing, two pictures of a folder share a name, or no name is in both.
    """
    inputs, truths = _pictures(input_dir), _pictures(gt_dir)
    names = sorted(name for name in inputs.keys() & truths.keys() if fnmatch(name, pattern))
    if not names:
        matching = "" if pattern == "*" else f" that matches {pattern!r}"
        raise InputError(f"{input_dir}: shares no picture name{matching} with {gt_dir}; check the folders and --filter")
    return [Pair(name, inputs[name], truths[name]) for name in names]


def load_picture(path: Path) -> Picture:
    """Read a picture upright as R'G'B' [H, W, 3] of 8 bits, at most 640 pixels a side.

    Raises:
        InputError: missing, not a picture, or damaged.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable picture ({error}); remove or replace it") from None
    image.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def summarize(scores: Iterable[Score]) -> dict[str, dict[str, float]]:
    """Means by group, and of all where there are several groups, as rows that `as_row` gives of one score."""
    groups: dict[str, list[Score]] = {}
    for score in scores:
        groups.setdefault(score.group, []).append(score)
    if len(groups) > 1:
        groups["all"] = [score for group in groups.values() for score in group]
    return {name: {"n": len(group), **_mean([as_row(each) for each in group])} for name, group in groups.items()}


def as_row(score: Score) -> dict[str, float]:
    """A score as flat numbers: psnr, ssim, delta_e, brightness; input_psnr, …; truth_brightness."""
    row = {field.name: getattr(score.output, field.name) for field in fields(Metrics)}
    if score.input:
        row |= {f"input_{field.name}": getattr(score.input, field.name) for field in fields(Metrics)}
    return row | {"truth_brightness": score.truth_brightness}


class ContactSheet:
    """Saves outputs as PNG into a folder, and one picture with a row (input | output | truth) of each pair.

    Raises:
        OutputError: the folder can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: list[Image.Image] = []

    def add(self, name: str, picture: Picture, output: Picture, truth: Picture) -> None:
        """Save one output and remember its row; fits `evaluate`'s `visit`."""
        self._save(Image.fromarray(output), f"{name}.png")
        columns = [Image.fromarray(each) for each in (picture, output, truth)]
        for column in columns:
            column.thumbnail((_SHEET_COLUMN, _SHEET_COLUMN), Image.Resampling.LANCZOS)
        row = Image.new("RGB", (3 * _SHEET_COLUMN, columns[0].height + 14), "white")
        for index, column in enumerate(columns):
            row.paste(column, (index * _SHEET_COLUMN, 14))
        ImageDraw.Draw(row).text((2, 1), f"{name}: input | output | truth", "black")
        self._rows.append(row)

    def write(self) -> Path:
        """Write the sheet and say where it is."""
        sheet = Image.new("RGB", (3 * _SHEET_COLUMN, sum(row.height for row in self._rows)))
        top = 0
        for row in self._rows:
            sheet.paste(row, (0, top))
            top += row.height
        return self._save(sheet, "contact-sheet.png")

    def _save(self, image: Image.Image, name: str) -> Path:
        path = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            image.save(path)
        except OSError as error:
            raise OutputError(f"{path}: can't be written ({error.strerror}); choose another --save folder") from None
        return path


def _enhanced(enhance: Enhance, picture: Picture, pair: Pair) -> Picture:
    try:
        return enhance(picture)
    except RtlitError as error:
        raise type(error)(f"{pair.input}: {error}") from None


def _pictures(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder of pictures")
    found: dict[str, Path] = {}
    for path in sorted(_picture_files(folder)):
        if path.stem in found:
            raise InputError(f"{path}: {found[path.stem].name} has the same name; keep one of them")
        found[path.stem] = path
    return found


def _picture_files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


def _mean(rows: list[Mapping[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
