"""Score an enhancer on pictures, or on pairs of them: a dark one, and how it should have been.

Protocol: a pair shares its file name (without suffix); each picture is reduced to 640 pixels on its longer
side (Lanczos, never enlarged), enhanced at that size, rounded to 8 bits and compared.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from rtlit import files
from rtlit.errors import InputError, OutputError, RtlitError
from rtlit.training.metrics import Look, Metrics, Picture, brightness, look, measure

LONG_SIDE = 640
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})

Enhance = Callable[[Picture], Picture]


@dataclass(frozen=True)
class Score:
    """What an enhancer made of one picture.

    Attributes:
        name: file name without suffix.
        group: the word before the first `_` of the name (`fivek_a0212` → fivek), else "all".
        look: of the enhanced picture; input_look: of the picture as it was.
        output: the enhanced picture against the truth; None without a truth.
        input: the picture as it was against the truth; None when not asked for.
        truth_brightness: mean code of the truth, 0 … 1.
    """

    name: str
    group: str
    look: Look
    input_look: Look
    output: Metrics | None = None
    input: Metrics | None = None
    truth_brightness: float | None = None


@dataclass(frozen=True)
class Pair:
    """Two files of the same name, or one without a truth."""

    name: str
    input: Path
    truth: Path | None

    @property
    def group(self) -> str:
        """See `Score.group`."""
        match = re.match(r"[A-Za-z]+(?=_)", self.name)
        return match[0] if match else "all"

    def load(self) -> tuple[Picture, Picture | None]:
        """Input and truth, reduced.

        Raises:
            InputError: a picture can't be read, or their sizes differ.
        """
        picture, truth = load_picture(self.input), load_picture(self.truth) if self.truth else None
        if truth is not None and picture.shape != truth.shape:
            sizes = " and ".join(f"{each.shape[1]}×{each.shape[0]}" for each in (picture, truth))
            raise InputError(f"{self.input}: its size differs from {self.truth} ({sizes} at {LONG_SIDE} px); crop one")
        return picture, truth


Visit = Callable[[Score, Picture, Picture, Picture | None], None]


def evaluate(
    input_dir: Path,
    gt_dir: Path | None,
    enhance: Enhance,
    pattern: str = "*",
    limit: int | None = None,
    *,
    baseline: bool = True,
    visit: Visit | None = None,
) -> list[Score]:
    """Score `enhance` on the pictures that two folders share, or on those of one without truths.

    Args:
        enhance: uint8 R'G'B' [H, W, 3] → the same.
        pattern: shell pattern that names (without suffix) must match.
        limit: only the first so many pictures.
        baseline: also score the inputs as they are, which doubles the time.
        visit: called with score, input, output and truth of each picture.

    Raises:
        InputError: a folder is missing, no name is in both, a picture can't be read, or sizes differ.
    """
    scores = []
    for pair in find_pairs(input_dir, gt_dir, pattern)[:limit]:
        picture, truth = pair.load()
        output = _enhanced(enhance, picture, pair)
        scores.append(_score(pair, picture, output, truth, baseline))
        if visit:
            visit(scores[-1], picture, output, truth)
    return scores


def _score(pair: Pair, picture: Picture, output: Picture, truth: Picture | None, baseline: bool) -> Score:
    score = Score(pair.name, pair.group, look(output), look(picture))
    if truth is None:
        return score
    before = measure(picture, truth) if baseline else None
    return replace(score, output=measure(output, truth), input=before, truth_brightness=brightness(truth))


def find_pairs(input_dir: Path, gt_dir: Path | None, pattern: str = "*") -> list[Pair]:
    """Pictures of the same name in both folders, by name; without a second folder, all of the first.

    Raises:
        InputError: a folder is missing, two pictures of a folder share a name, or no name is in both.
    """
    inputs, truths = _pictures(input_dir), _pictures(gt_dir) if gt_dir else None
    found = inputs.keys() if truths is None else inputs.keys() & truths.keys()
    names = sorted(name for name in found if fnmatch(name, pattern))
    if not names:
        matching = "" if pattern == "*" else f" that matches {pattern!r}"
        missing = f"shares no picture name{matching} with {gt_dir}" if gt_dir else f"holds no picture{matching}"
        raise InputError(f"{input_dir}: {missing}; check the folders and --filter")
    return [Pair(name, inputs[name], truths[name] if truths else None) for name in names]


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
    """A score as flat numbers: psnr, ssim, delta_e, brightness, luma, …; input_psnr, …; truth_brightness."""
    parts = (("", score.output), ("", score.look), ("input_", score.input), ("input_", score.input_look))
    row = {f"{prefix}{key}": value for prefix, part in parts if part for key, value in asdict(part).items()}
    return row if score.truth_brightness is None else row | {"truth_brightness": score.truth_brightness}


def in_words(score: Score) -> str:
    """A score in a line, for people who look at its picture."""
    row = as_row(score)
    shown = [label.format(*(row[key] for key in keys)) for label, *keys in _WORDS if all(key in row for key in keys)]
    return ", ".join(shown)


_WORDS = (
    ("PSNR {:.1f} → {:.1f} dB", "input_psnr", "psnr"),
    ("ΔE {:.1f} → {:.1f}", "input_delta_e", "delta_e"),
    ("luma {:.2f} → {:.2f}", "input_luma", "luma"),
    ("contrast {:.2f} → {:.2f}", "input_contrast", "contrast"),
    ("luma below 32 {:.0%} → {:.0%}", "input_dark", "dark"),
    ("above 250 {:.1%} → {:.1%}", "input_bright", "bright"),
)


def save_picture(picture: Picture, folder: Path, name: str) -> None:
    """Write `folder/name.png`, whole or not at all; makes the folder, and cuts a name that is too long.

    Raises:
        OutputError: it can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: can't make the folder ({error.strerror}); choose another") from None
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    files.write(folder / files.fitting(name, ".png"), file.getvalue())


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
