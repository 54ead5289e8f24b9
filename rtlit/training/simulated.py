"""Folders of pictures in simulated bad light, for those who have no backlit photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rtlit import files
from rtlit.errors import OutputError, UsageError
from rtlit.training.evaluate import save_picture
from rtlit.training.metrics import Picture
from rtlit.training.photos import find_photos, load_photos
from rtlit.training.simulate import SimulationSettings, simulate

# No picture stays as it is; the rest in the shares that `SimulationSettings` has.
_BAD_LIGHT = SimulationSettings(unchanged=0.0, under_exposed=0.1, masked=0.55, composed=0.15, expanded=0.2)
_BACKLIT = SimulationSettings(unchanged=0.0, under_exposed=0.0, masked=0.6, composed=0.17, expanded=0.23)


@dataclass(frozen=True)
class SimulatedSet:
    """What to write.

    Attributes:
        count: pictures; None for one of each photograph. More go round the photographs again, in other light.
        size: longer side in pixels; smaller photographs keep their size.
        seed: of every draw; picture i depends on it and on i alone, given the photographs.
        backlit_only: none that are under-exposed as a whole.
        truths: write `input/` and `gt/`, with the same names, in place of the pictures alone.
    """

    count: int | None = None
    size: int = 512
    seed: int = 0
    backlit_only: bool = False
    truths: bool = False

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise UsageError(f"count must be 1 or more, not {self.count}")
        if self.size < 32:
            raise UsageError(f"size must be 32 or more, not {self.size}")


def write_simulated(folders: Sequence[Path], target: Path, wanted: SimulatedSet, *, overwrite: bool = False) -> int:
    """Write PNG pictures `<photograph>-<number>.png` of whole photographs; how many.

    Raises:
        InputError: no photographs, or unreadable ones. OutputError: the target holds something, or can't be written.
    """
    paths = find_photos(folders)
    _make(target, overwrite)
    count = wanted.count or len(paths)
    settings = _BACKLIT if wanted.backlit_only else _BAD_LIGHT
    for index in range(count):
        generator = torch.Generator().manual_seed(wanted.seed * 1_000_003 + index)
        # The second is the view behind, where one is composed.
        photo, view = (each[None].float() / 255 for each in load_photos(_two(paths, index), wanted.size))
        view = torch.nn.functional.interpolate(view, photo.shape[-2:], mode="bilinear", antialias=True)
        picture, truth = simulate(torch.cat([photo, view]), settings, generator)
        name = files.fitting(paths[index % len(paths)].stem, f"-{index:04d}", 251)
        if wanted.truths:
            save_picture(_codes(truth), target / "gt", name)
            save_picture(_codes(picture), target / "input", name)
        else:
            save_picture(_codes(picture), target, name)
    return count


def _codes(pictures: Tensor) -> Picture:
    return (pictures[0].permute(1, 2, 0) * 255).round().byte().numpy()


def _two(paths: Sequence[Path], index: int) -> tuple[Path, Path]:
    return paths[index % len(paths)], paths[(index * 7 + 1 + index // len(paths)) % len(paths)]


def _make(target: Path, overwrite: bool) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
        if not overwrite and any(target.iterdir()):
            raise OutputError(f"{target}: holds something already; choose another folder or --overwrite")
    except OSError as error:
        raise OutputError(f"{target}: can't make the folder ({error.strerror}); choose another") from None
