"""Contact sheets: what they hold, in which order, and names that can't be."""

from __future__ import annotations

import base64
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="needs the extra `train`")
pytest.importorskip("skimage", reason="needs the extra `train`")

from PIL import Image

from rtlit.errors import OutputError, UsageError
from rtlit.training.metrics import Picture
from rtlit.training.sheet import Sheet


def noise(seed: int, height: int = 40, width: int = 60) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def filled(path: Path, order: str = "worst") -> Path:
    sheet = Sheet(path, "light & dark", "name" if order == "name" else "worst")
    for seed, (name, rank) in enumerate({"b": 3.0, "a<b>": 9.0, "c": 1.0}.items()):
        sheet.add(name, {"input": noise(seed), "ours": noise(seed) // 2}, f"{rank} dB → ΔE", rank)
    sheet.write()
    return path


def test_png_rows_are_the_pictures_themselves(tmp_path: Path) -> None:
    with Image.open(filled(tmp_path / "sheet.png")) as image:
        assert image.size == (2 * 320, 3 * (40 + 14))
        pixels = np.asarray(image)
    for row, seed in enumerate((2, 0, 1)):  # the worst first
        rows = slice(row * 54 + 14, row * 54 + 54)
        assert np.array_equal(pixels[rows, :60], noise(seed))
        assert np.array_equal(pixels[rows, 320:380], noise(seed) // 2)
        assert pixels[row * 54 : row * 54 + 14].max() > 240, "the name is written above"


def test_pictures_are_reduced_and_rows_fit_the_taller(tmp_path: Path) -> None:
    sheet = Sheet(tmp_path / "sheet.png")
    sheet.add("0", {"wide": noise(0, 360, 640), "tall": noise(0, 640, 360)}, "")
    sheet.write()
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size == (640, 14 + 320)


@pytest.mark.parametrize(("order", "names"), [("worst", ["c", "b", "a&lt;b&gt;"]), ("name", ["a&lt;b&gt;", "b", "c"])])
def test_page_is_self_contained_and_in_order(tmp_path: Path, order: str, names: list[str]) -> None:
    page = filled(tmp_path / "sheet.html", order).read_text()
    assert re.findall("<h2>(.*?)</h2>", page) == names
    assert "light &amp; dark" in page and "9.0 dB → ΔE" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    pictures = [Image.open(BytesIO(base64.b64decode(data))) for data in re.findall('base64,(.*?)"', page)]
    assert [picture.size for picture in pictures] == [(60, 40)] * 6


def test_page_keeps_the_tones(tmp_path: Path) -> None:
    sheet = Sheet(tmp_path / "sheet.html")
    sheet.add("flat", {"input": np.full((32, 32, 3), (200, 40, 90), np.uint8)}, "")
    sheet.write()
    data = re.findall('base64,(.*?)"', (tmp_path / "sheet.html").read_text())[0]
    shown = np.asarray(Image.open(BytesIO(base64.b64decode(data)))).astype(int)
    assert np.abs(shown - (200, 40, 90)).max() <= 2


def test_a_wrong_name_is_known_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"sheet\.jpg: a contact sheet is \.html or \.png"):
        Sheet(tmp_path / "sheet.jpg")
    with pytest.raises(OutputError, match="another --sheet"):
        Sheet(tmp_path / "missing" / "sheet.png")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(OutputError, match=r"folder\.html"):
        Sheet(tmp_path / "folder.html")


def test_a_sheet_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sheet.html"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        filled(path)
    assert path.read_text() == "old" and [each.name for each in tmp_path.iterdir()] == ["sheet.html"]
