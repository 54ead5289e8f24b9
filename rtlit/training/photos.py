"""Photographs for training: read once, kept small in memory, cropped at random."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from rtlit.errors import InputError

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"}


def find_photos(folders: Iterable[Path]) -> list[Path]:
    """The pictures in some folders (and below), sorted.

    Raises:
        InputError: a folder that isn't there or holds no picture.
    """
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: not a folder; give folders of photographs")
        here = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
        if not here:
            raise InputError(f"{folder}: no pictures in it ({', '.join(sorted(_SUFFIXES))})")
        found += here
    return found


def load_photos(paths: Sequence[Path], longer_side: int) -> list[Tensor]:
    """Decode and reduce photographs: uint8 R'G'B' tensors [3, H, W], orientation applied.

    Raises:
        InputError: a file that can't be decoded.
    """
    import numpy as np
    from PIL import Image, ImageOps
    from torch import from_numpy

    photos = []
    for path in paths:
        try:
            with Image.open(path) as image:
                picture = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise InputError(f"{path}: not a readable picture ({error}); remove it from the folder") from None
        picture.thumbnail((longer_side, longer_side), Image.Resampling.LANCZOS)
        photos.append(from_numpy(np.array(picture)).permute(2, 0, 1).contiguous())
    return photos


def fingerprint(paths: Sequence[Path]) -> str:
    """sha256 over the names and contents of files, for the record of what a network was trained on."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def random_crops(photos: Sequence[Tensor], size: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
    """Crops of random photographs, places and scales, half of them mirrored: [count, 3, h, w] in 0 … 1.

    A crop has the aspect ratio of `size` (within ±20 %), spans 50 to 100 % of the largest that fits, and is
    reduced by area means; values are multiples of 1/255.
    """
    draw = torch.rand(count, 6, generator=generator).tolist()
    crops = []
    for which, scale, stretch, top, left, mirror in draw:
        photo = photos[int(which * len(photos))]
        height, width = photo.shape[-2:]
        aspect = size[1] / size[0] * 1.2 ** (2 * stretch - 1)
        h = min(height, width / aspect) * (0.5 + 0.5 * scale)
        h, w = max(1, int(h)), max(1, min(width, int(h * aspect)))
        y, x = int(top * (height - h)), int(left * (width - w))
        crop = photo[None, :, y : y + h, x : x + w].float()
        crop = F.interpolate(crop, size, mode="bilinear", antialias=True)[0]
        crops.append(crop.flip(-1) if mirror < 0.5 else crop)
    return torch.stack(crops).round().clamp(0, 255) / 255
