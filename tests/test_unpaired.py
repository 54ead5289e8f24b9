"""Pictures for CLIP-LIT: what is drawn, what becomes of it, and folders that can't be used."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="needs the extra `train`")

from clip_runs import make_folders
from PIL import Image
from scipy import ndimage

from rtlit.errors import InputError
from rtlit.training.presets import AugmentationSettings
from rtlit.training.unpaired import Squares, augment, decode_square, find_unpaired, generator_for, shuffled

NEVER = AugmentationSettings(0, 0, 0, (0.7, 1.3), 0)
CPU = torch.device("cpu")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return make_folders(tmp_path)


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Smooth ones: 3 of 48×48."""
    coarse = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (48, 48), mode="bicubic").clamp(0, 1)


# Draws.


def test_every_picture_is_drawn_once_a_round_whatever_the_batch() -> None:
    one_by_one = [shuffled(7, start, 1, 3, "order")[0] for start in range(28)]
    assert (
        one_by_one
        == shuffled(7, 0, 28, 3, "order")
        == [*shuffled(7, 0, 10, 3, "order"), *shuffled(7, 10, 18, 3, "order")]
    )
    assert all(sorted(one_by_one[start : start + 7]) == list(range(7)) for start in range(0, 28, 7))
    assert one_by_one[:7] != one_by_one[7:14]
    assert one_by_one != shuffled(7, 0, 28, 4, "order") and one_by_one != shuffled(7, 0, 28, 3, "other")


def test_draws_depend_on_their_key_alone() -> None:
    first = torch.rand(4, generator=generator_for(1, "augment", 2))
    torch.rand(5)
    assert torch.equal(first, torch.rand(4, generator=generator_for(1, "augment", 2)))
    assert not torch.equal(first, torch.rand(4, generator=generator_for(12, "augment", 2)))


# Augmentation.


def test_pictures_are_left_alone_where_nothing_is_drawn(pictures: torch.Tensor) -> None:
    assert torch.equal(augment(pictures, torch.rand(3, 8), NEVER), pictures)


def test_mirrors_and_transposes_move_pixels_unchanged(pictures: torch.Tensor) -> None:
    """All eight, each as often as the others."""
    settings = AugmentationSettings(0.5, 0.5, 0, (0.7, 1.3), 0)
    picture = pictures[0]
    eight = [torch.rot90(each, turns, (1, 2)) for each in (picture, picture.flip(-1)) for turns in range(4)]
    draws = torch.rand(800, 8, generator=torch.Generator().manual_seed(1))
    seen = Counter(
        next(index for index, wanted in enumerate(eight) if torch.equal(each, wanted))
        for each in augment(picture.expand(800, -1, -1, -1), draws, settings)
    )
    assert len(seen) == 8 and all(70 < count < 130 for count in seen.values())


@pytest.mark.parametrize(("draw", "turns"), [(1.0, -1), (0.0, 1)])
def test_turning_by_90_degrees_is_exact(pictures: torch.Tensor, draw: float, turns: int) -> None:
    settings = AugmentationSettings(0, 0, 0, (0.7, 1.3), 1.0, 90)
    turned = augment(pictures, torch.tensor([[0.0] * 7 + [draw]] * 3), settings)
    torch.testing.assert_close(turned, torch.rot90(pictures, turns, (2, 3)), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("x", "y", "turn"), [(0.9, 0.1, None), (0.5, 0.5, 0.75), (0.2, 0.8, 0.3)])
def test_zoom_and_rotation_are_scipys(pictures: torch.Tensor, x: float, y: float, turn: float | None) -> None:
    """Columns are stretched by 0.7 + 0.6·x, rows by 0.7 + 0.6·y, then the picture turns by ±45°, clockwise if > 0."""
    settings = AugmentationSettings(0, 0, 1.0, (0.7, 1.3), 0.0 if turn is None else 1.0, 45)
    draw = torch.tensor([[0.9, 0.9, 0.9, 0.0, 0.0, x, y, turn or 0.0]])
    angle = np.radians(45) * (2 * turn - 1) if turn is not None else 0.0
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # of (row, column)
    inverse = np.linalg.inv(rotation @ np.diag([0.7 + 0.6 * y, 0.7 + 0.6 * x]))
    centre = np.array([23.5, 23.5])
    wanted = [
        ndimage.affine_transform(plane, inverse, centre - inverse @ centre, order=1, mode="reflect")
        for plane in pictures[0].numpy()
    ]
    moved = augment(pictures[:1], draw, settings)[0]
    torch.testing.assert_close(moved, torch.from_numpy(np.stack(wanted)), rtol=0, atol=1e-4)
    assert (moved - pictures[0]).abs().mean() > 0.02


# Pictures.


def test_pictures_are_upright_squares(tmp_path: Path) -> None:
    codes = np.zeros((40, 80, 3), np.uint8)
    codes[:, 40:, 0] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: what is right comes down
    Image.fromarray(codes).save(tmp_path / "turned.png", exif=exif)
    square = decode_square(tmp_path / "turned.png", 32)
    assert square.shape == (3, 32, 32) and square.dtype == torch.uint8
    assert int(square[0, :14].max()) < 8 and int(square[0, 18:].min()) > 192


def test_pictures_held_and_decoded_when_needed_are_the_same(folders: tuple[Path, Path]) -> None:
    paths = sorted(folders[0].iterdir())
    held, decoded = Squares(paths, 24, CPU, memory=10**9), Squares(paths, 24, CPU, memory=0)
    decoded.prefetch([1, 3])
    for which in ([3, 1, 1], [0, 4], [2]):
        assert torch.equal(held.batch(which), decoded.batch(which))
    assert len(held) == len(decoded) == 5
    batch = held.batch([0])
    assert batch.shape == (1, 3, 24, 24) and torch.equal((batch * 255).round() / 255, batch)


# Folders.


def test_folders_are_found_with_fingerprints(folders: tuple[Path, Path], tmp_path: Path) -> None:
    found = find_unpaired(*folders)
    assert [path.name for path in found.backlit] == [f"{index}.png" for index in range(5)]
    shutil.copytree(folders[0], tmp_path / "copy")
    assert find_unpaired(tmp_path / "copy", folders[1]).backlit_sha256 == found.backlit_sha256
    (tmp_path / "copy" / "2.png").unlink()
    assert find_unpaired(tmp_path / "copy", folders[1]).backlit_sha256 != found.backlit_sha256


Spoil = Callable[[Path, tuple[Path, Path]], tuple[Path, Path]]


def missing(tmp: Path, folders: tuple[Path, Path]) -> tuple[Path, Path]:
    return folders[0], tmp / "nowhere"


def empty(tmp: Path, folders: tuple[Path, Path]) -> tuple[Path, Path]:
    (tmp / "empty").mkdir()
    return tmp / "empty", folders[1]


def twice(tmp: Path, folders: tuple[Path, Path]) -> tuple[Path, Path]:
    (tmp / "link").symlink_to(folders[0])
    return folders[0], tmp / "link"


def copied(tmp: Path, folders: tuple[Path, Path]) -> tuple[Path, Path]:
    shutil.copytree(folders[0], tmp / "copy")
    return folders[0], tmp / "copy"


def shared(tmp: Path, folders: tuple[Path, Path]) -> tuple[Path, Path]:
    shutil.copy(folders[0] / "3.png", folders[1] / "other.png")
    return folders


def within(tmp: Path, folders: tuple[Path, Path]) -> tuple[Path, Path]:
    return folders[0].parent, folders[0]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (missing, "nowhere: not a folder"),
        (empty, "empty: no pictures in it"),
        (twice, "backlit: given twice"),
        (copied, "copy/0.png: the same photograph as"),
        (shared, "other.png: the same photograph as"),
        (within, "0.png: the same photograph as"),
    ],
)
def test_unusable_folders_are_one_line(spoil: Spoil, words: str, folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        find_unpaired(*spoil(tmp_path, folders))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_folders_and_files_that_cannot_be_read_are_one_line(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root everything can be read, so the refusal is made up."""
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda path, mode: path != folders[0])
        with pytest.raises(InputError, match="backlit: can't be read .Permission denied"):
            find_unpaired(*folders)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, mode: open("/", mode))  # noqa: SIM115 (raises)
        with pytest.raises(InputError, match="0.png: can't be read"):
            find_unpaired(*folders)


@pytest.mark.parametrize("memory", [0, 10**9])
def test_a_corrupt_picture_is_named(folders: tuple[Path, Path], memory: int) -> None:
    torn = folders[0] / "3.png"
    torn.write_bytes(torn.read_bytes()[:120])
    with pytest.raises(InputError, match="3.png: not a readable picture .*remove it"):
        Squares(sorted(folders[0].iterdir()), 24, CPU, memory).batch([3])
