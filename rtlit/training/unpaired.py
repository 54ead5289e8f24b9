"""Two folders of unpaired photographs, as square pictures; every draw depends on seed and iteration alone."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from rtlit.errors import InputError
from rtlit.training.photos import find_photos
from rtlit.training.presets import AugmentationSettings

DRAWS = 8  # random numbers that `augment` takes a picture
_DAMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Unpaired:
    """What `find_unpaired` found: sorted files, and sha256 over the contents of each set, in that order."""

    backlit: list[Path]
    well_lit: list[Path]
    backlit_sha256: str
    well_lit_sha256: str


def find_unpaired(backlit: Path, well_lit: Path) -> Unpaired:
    """The pictures of two folders (and below).

    Raises:
        InputError: a folder is missing, can't be read or is empty, or a photograph is in both.
    """
    if backlit.exists() and well_lit.exists() and backlit.resolve() == well_lit.resolve():
        raise InputError(f"{backlit}: given twice; give a folder of backlit photographs and one of well-lit ones")
    sets = [_find(folder) for folder in (backlit, well_lit)]
    digests = [{path: _sha256(path) for path in paths} for paths in sets]
    names = {digest: path for path, digest in digests[0].items()}
    for path, digest in digests[1].items():
        if digest in names:
            raise InputError(f"{path}: the same photograph as {names[digest]}; it can't be backlit and well-lit both")
    first, second = (hashlib.sha256("".join(each.values()).encode()).hexdigest() for each in digests)
    return Unpaired(sets[0], sets[1], first, second)


def _find(folder: Path) -> list[Path]:
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
        raise InputError(f"{folder}: can't be read (Permission denied); check its permissions")
    return [path for path in find_photos([folder]) if not path.name.startswith(".")]


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); check it or remove it from the folder") from None


def decode_square(path: Path, size: int) -> Tensor:
    """A picture upright, stretched to a square as the paper does (Lanczos): uint8 R'G'B' [3, size, size].

    Raises:
        InputError: it can't be decoded.
    """
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file).convert("RGB")
            picture = picture.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)
    except _DAMAGE as error:
        raise InputError(f"{path}: not a readable picture ({error}); remove it from the folder") from None
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


class Squares:
    """Square pictures of some files: held as uint8 where they fit in `memory` bytes, else decoded when needed.

    `batch` of pictures that `prefetch` named doesn't wait for the decoder.
    """

    def __init__(self, paths: Sequence[Path], size: int, device: torch.device, memory: int, threads: int = 2) -> None:
        """Raises: InputError, for a picture that can't be decoded, if they fit."""
        self.paths, self.size, self.device = list(paths), size, device
        self._pool = ThreadPoolExecutor(threads)
        self._coming: dict[int, Future[Tensor]] = {}
        self._held: Tensor | None = None
        if len(self.paths) * 3 * size**2 <= memory:
            self._held = torch.stack(list(self._pool.map(self._decode, range(len(self.paths))))).to(device)

    def __len__(self) -> int:
        return len(self.paths)

    def prefetch(self, indices: Sequence[int]) -> None:
        """Start decoding; what was prefetched before and isn't needed is forgotten."""
        if self._held is None:
            old, self._coming = self._coming, {}
            for index in indices:
                self._coming[index] = old.get(index) or self._pool.submit(self._decode, index)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """R'G'B' [B, 3, size, size] in 0 … 1, multiples of 1/255, on the device."""
        if self._held is not None:
            pictures = self._held[torch.tensor(indices, device=self.device)]
        else:
            coming = {i: self._coming.get(i) or self._pool.submit(self._decode, i) for i in indices}
            pictures = torch.stack([coming[index].result() for index in indices]).to(self.device)
        return pictures.float() / 255

    def _decode(self, index: int) -> Tensor:
        return decode_square(self.paths[index], self.size)


def generator_for(*key: int | str) -> torch.Generator:
    """A generator of its own for every key, whatever was drawn before."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


def shuffled(count: int, start: int, length: int, *key: int | str) -> list[int]:
    """Positions start … start + length of an endless sequence that visits 0 … count − 1 in a new order each time."""
    orders: dict[int, list[int]] = {}
    for epoch in range(start // count, (start + length - 1) // count + 1):
        orders[epoch] = torch.randperm(count, generator=generator_for(*key, epoch)).tolist()
    return [orders[place // count][place % count] for place in range(start, start + length)]


def augment(pictures: Tensor, draws: Tensor, settings: AugmentationSettings) -> Tensor:
    """Mirror, transpose, zoom and turn square pictures.

    Args:
        pictures: [B, 3, S, S].
        draws: [B, 8], uniform in 0 … 1, on the CPU.

    Returns:
        [B, 3, S, S]. Pixels move unchanged where a picture is neither zoomed nor turned; else they are
        interpolated bilinearly, and mirrored at the border.
    """
    moved = torch.stack([_mirror(each, draw, settings) for each, draw in zip(pictures, draws.tolist(), strict=True)])
    matrices = [_affine(draw, settings) for draw in draws.tolist()]
    which = [index for index, matrix in enumerate(matrices) if matrix is not None]
    if which:
        theta = torch.tensor([matrices[index] for index in which], dtype=pictures.dtype, device=pictures.device)
        grid = F.affine_grid(theta, [len(which), *pictures.shape[1:]], align_corners=False)
        at = torch.tensor(which, device=pictures.device)
        moved[at] = F.grid_sample(moved[at], grid, padding_mode="reflection", align_corners=False)
    return moved


def _mirror(picture: Tensor, draw: list[float], settings: AugmentationSettings) -> Tensor:
    if draw[0] < settings.flip:
        picture = picture.flip(-1)
    if draw[1] < settings.flip:
        picture = picture.flip(-2)
    return picture.transpose(-2, -1) if draw[2] < settings.transpose else picture


def _affine(draw: list[float], settings: AugmentationSettings) -> list[list[float]] | None:
    """Where each pixel comes from: the inverse of zoom, then rotation, about the centre."""
    zooms, turns = draw[3] < settings.zoom, draw[4] < settings.rotation
    if not (zooms or turns):
        return None
    low, high = settings.zoom_range
    zoom_x, zoom_y = (low + (high - low) * each if zooms else 1.0 for each in draw[5:7])
    angle = math.radians(settings.degrees) * (2 * draw[7] - 1) if turns else 0.0
    cos, sin = math.cos(angle), math.sin(angle)
    return [[cos / zoom_x, sin / zoom_x, 0.0], [-sin / zoom_y, cos / zoom_y, 0.0]]
