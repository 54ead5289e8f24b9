"""The evaluation protocol: metrics against closed forms, matching, reduction, the command."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

pytest.importorskip("skimage", reason="needs the extra `train`")
pytest.importorskip("PIL", reason="needs the extra `train`")

from PIL import Image
from skimage.metrics import structural_similarity

from rtlit.commands import main
from rtlit.errors import InputError, OutputError
from rtlit.network import CurveNetwork, save_network
from rtlit.training.evaluate import Score, as_row, evaluate, find_pairs, in_words, load_picture, save_picture, summarize
from rtlit.training.metrics import Picture, delta_e, look, measure, psnr, ssim


def flat(*code: int, size: tuple[int, int] = (24, 32)) -> Picture:
    return np.full((*size, 3), code, np.uint8)


def noise(seed: int, height: int = 40, width: int = 60) -> Picture:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three dark pictures and their truths, under different suffixes, and one of each without a partner."""
    dark, truth = tmp_path / "dark", tmp_path / "truth"
    dark.mkdir()
    truth.mkdir()
    for index, name in enumerate(("fivek_a", "fivek_b", "0001")):
        picture = noise(index)
        Image.fromarray(picture // 4).save(dark / f"{name}.png")
        Image.fromarray(picture).save(truth / f"{name}.webp", lossless=True)
    Image.fromarray(noise(9)).save(dark / "alone.png")
    Image.fromarray(noise(9)).save(truth / "lonely.png")
    (dark / "notes.txt").write_text("not a picture")
    return dark, truth


def test_psnr_of_a_constant_difference() -> None:
    assert psnr(flat(100), flat(110)) == pytest.approx(20 * math.log10(255 / 10))
    assert psnr(flat(0), flat(255)) == 0


def test_ssim_of_flat_pictures_is_its_luminance_term() -> None:
    c1 = (0.01 * 255) ** 2
    assert ssim(flat(50), flat(100)) == pytest.approx((2 * 50 * 100 + c1) / (50**2 + 100**2 + c1), abs=1e-6)


def test_ssim_keeps_float64_accuracy() -> None:
    # Nearly flat and bright: where E[x²] − E[x]² cancels worst.
    truth = 250 + noise(1, 90, 120) // 64
    picture = 249 + noise(2, 90, 120) // 64
    expected = structural_similarity(
        truth, picture, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(picture, truth) == pytest.approx(expected, abs=2e-4)


def test_delta_e_of_black_and_white_is_100() -> None:
    assert delta_e(flat(0), flat(255)) == pytest.approx(100, abs=0.01)


def test_delta_e_reads_every_second_pixel_of_every_second_row() -> None:
    truth = flat(80)
    picture = truth.copy()
    picture[1::2] = picture[:, 1::2] = 255
    assert delta_e(picture, truth) == 0


def test_identical_pictures_are_perfect() -> None:
    metrics = measure(noise(3), noise(3))
    assert (metrics.psnr, metrics.ssim, metrics.delta_e) == (100, 1, 0)


def test_look_of_a_picture_in_three_known_parts() -> None:
    picture = np.concatenate([flat(0), flat(0), flat(102), flat(255)], 1)
    seen = look(picture)
    assert seen.brightness == pytest.approx(0.35) and seen.luma == pytest.approx(0.35)
    assert seen.contrast == pytest.approx(math.sqrt((2 * 0.35**2 + 0.05**2 + 0.65**2) / 4))
    assert (seen.dark, seen.bright) == (0.5, 0.25)


def test_luma_weighs_green_most_and_brightness_weighs_all_alike() -> None:
    assert look(flat(0, 255, 0)).luma == pytest.approx(0.7152)
    assert look(flat(0, 255, 0)).brightness == pytest.approx(1 / 3)


@pytest.mark.parametrize(("code", "dark", "bright"), [(31, 1, 0), (32, 0, 0), (250, 0, 0), (251, 0, 1)])
def test_thresholds_of_dark_and_bright_are_outside(code: int, dark: float, bright: float) -> None:
    assert (look(flat(code)).dark, look(flat(code)).bright) == (dark, bright)


def test_scores_pair_by_name_with_groups_and_baseline(folders: tuple[Path, Path]) -> None:
    scores = evaluate(*folders, lambda picture: picture * 4)
    assert [(score.name, score.group) for score in scores] == [
        ("0001", "all"), ("fivek_a", "fivek"), ("fivek_b", "fivek")
    ]  # fmt: skip
    for score in scores:
        assert score.input and score.output.psnr > 40 > 10 > score.input.psnr
        assert score.truth_brightness and score.truth_brightness > 3.5 * score.input_look.brightness
        assert score.look.brightness == pytest.approx(score.truth_brightness, abs=0.01)
    means = summarize(scores)
    assert means["fivek"]["psnr"] == pytest.approx((scores[1].output.psnr + scores[2].output.psnr) / 2)
    assert means["all"]["n"] == 3 and means["fivek"]["n"] == 2


def test_filter_limit_and_baseline(folders: tuple[Path, Path]) -> None:
    scores = evaluate(*folders, lambda picture: picture, "fivek*", 1, baseline=False)
    assert [score.name for score in scores] == ["fivek_a"]
    assert scores[0].input is None and "input_psnr" not in summarize(scores)["fivek"]


def test_pictures_are_reduced_never_enlarged(tmp_path: Path) -> None:
    for name, size in {"wide": (1280, 702), "tall": (300, 900), "small": (64, 48)}.items():
        Image.new("L", size).save(tmp_path / f"{name}.png")
    assert load_picture(tmp_path / "wide.png").shape == (351, 640, 3)
    assert load_picture(tmp_path / "tall.png").shape == (640, 213, 3)
    assert load_picture(tmp_path / "small.png").shape == (48, 64, 3)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90° clockwise to view
    Image.fromarray(noise(0)).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(load_picture(tmp_path / "turned.png"), np.rot90(noise(0), -1))


def other_size(dark: Path, truth: Path) -> str:
    Image.fromarray(noise(0, 40, 50)).save(dark / "0001.png")
    return "0001.png"


def corrupt(dark: Path, truth: Path) -> str:
    (truth / "0001.webp").write_bytes((truth / "0001.webp").read_bytes()[:300])
    return "0001.webp"


def text(dark: Path, truth: Path) -> str:
    (dark / "0001.png").write_text("hello")
    return "0001.png"


def twice(dark: Path, truth: Path) -> str:
    Image.fromarray(noise(0)).save(dark / "0001.bmp")
    return "the same name"


def nothing_shared(dark: Path, truth: Path) -> str:
    for path in truth.iterdir():
        path.rename(path.with_stem("x" + path.stem))
    return "shares no picture name"


def no_folder(dark: Path, truth: Path) -> str:
    truth.rename(truth.with_name("elsewhere"))
    return "no such folder"


@pytest.mark.parametrize("spoil", [other_size, corrupt, text, twice, nothing_shared, no_folder])
def test_bad_input_is_one_line_that_names_it(folders: tuple[Path, Path], spoil: Callable[[Path, Path], str]) -> None:
    expected = spoil(*folders)
    with pytest.raises(InputError) as caught:
        evaluate(*folders, lambda picture: picture)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_find_pairs_names_the_filter(folders: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="'none_\\*'"):
        find_pairs(*folders, "none_*")


def test_a_folder_without_truths_is_looked_at(folders: tuple[Path, Path]) -> None:
    scores = evaluate(folders[0], None, lambda picture: picture * 4)
    assert [score.name for score in scores] == ["0001", "alone", "fivek_a", "fivek_b"]
    row = as_row(scores[0])
    assert row["luma"] == pytest.approx(4 * row["input_luma"]) and row["contrast"] == pytest.approx(
        4 * row["input_contrast"]
    )
    assert not {"psnr", "input_psnr", "truth_brightness"} & row.keys()
    assert summarize(scores)["all"]["n"] == 4


def test_visit_sees_what_was_scored(folders: tuple[Path, Path]) -> None:
    seen: list[tuple[Score, Picture, Picture, Picture | None]] = []
    scores = evaluate(*folders, lambda picture: picture * 4, limit=1, visit=lambda *each: seen.append(each))
    (score, picture, output, truth), *_ = seen
    assert [score] == scores and truth is not None
    assert psnr(output, truth) == score.output.psnr if score.output else False
    assert np.array_equal(output, picture * 4)
    assert in_words(score).startswith(f"PSNR {psnr(picture, truth):.1f} → {psnr(output, truth):.1f} dB, ΔE ")


def test_saving_into_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="taken: can.t make the folder .*; choose another"):
        save_picture(noise(0), tmp_path / "taken", "name")


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    """Weights of a network that has learned nothing: its curves change nothing."""
    save_network(CurveNetwork(), tmp_path / "identity.safetensors")
    return tmp_path / "identity.safetensors"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def test_command_prints_json(folders: tuple[Path, Path], identity: Path) -> None:
    result = run(*folders, "--weights", identity, "--json", "--filter", "fivek_*")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert [each["name"] for each in report["pictures"]] == ["fivek_a", "fivek_b"]
    mean = report["mean"]["fivek"]
    assert mean["n"] == 2 and mean["psnr"] == mean["input_psnr"] == pytest.approx(7.5, abs=1)


def test_command_prints_a_table_that_fits_80_columns(folders: tuple[Path, Path], identity: Path) -> None:
    result = run(folders[1], folders[1], "--weights", identity)
    lines = result.stdout.splitlines()
    assert result.exit_code == 0 and max(map(len, lines)) <= 80 and "…" not in result.stdout
    assert any(line.split()[:5] == ["fivek_a", "100.00", "100.00", "1.0000", "1.0000"] for line in lines)
    assert any(line.startswith("mean of 4 (all)") for line in lines)


def test_command_saves_what_it_scored(folders: tuple[Path, Path], identity: Path, tmp_path: Path) -> None:
    result = run(*folders, "--weights", identity, "--save", tmp_path / "saved", "--limit", 2)
    assert result.exit_code == 0 and f"saved {tmp_path / 'saved'}" in result.stderr
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["0001.png", "fivek_a.png"]
    assert np.array_equal(load_picture(tmp_path / "saved" / "fivek_a.png"), noise(0) // 4)


def test_command_looks_at_a_single_folder(folders: tuple[Path, Path], identity: Path, tmp_path: Path) -> None:
    result = run(folders[0], "--weights", identity, "--sheet", tmp_path / "sheet.html", "--quiet")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0 and not result.stderr and max(map(len, lines)) <= 80 and "PSNR" not in result.stdout
    seen = look(noise(9))
    expected = [f"{seen.luma:.3f}", f"{seen.luma:.3f}", f"{seen.contrast:.3f}", f"{seen.contrast:.3f}"]
    assert next(line.split()[1:5] for line in lines if line.startswith("alone")) == expected
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("<img") == 8 and ">truth<" not in page and "PSNR" not in page


def test_command_sheet_shows_the_worst_pair_first(folders: tuple[Path, Path], identity: Path, tmp_path: Path) -> None:
    """fivek_b becomes a negative, so the sheet begins with it."""
    Image.fromarray(255 - noise(1)).save(folders[0] / "fivek_b.png")
    for order, names in {"worst": ["fivek_b", "0001", "fivek_a"], "name": ["0001", "fivek_a", "fivek_b"]}.items():
        sheet = tmp_path / f"{order}.html"
        assert run(*folders, "--weights", identity, "--sheet", sheet, "--order", order).exit_code == 0
        assert re.findall("<h2>(.*?)</h2>", sheet.read_text()) == names
        assert sheet.read_text().count("<figcaption>truth<") == 3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--strength", "3"], 2, "strength"),
        (["--weights", "missing.safetensors"], 1, "missing.safetensors"),
        (["--filter", "zzz*"], 1, "zzz*"),
        (["--sheet", "sheet.pdf"], 2, "sheet.pdf"),
        (["--sheet", "missing/sheet.html"], 1, "missing/sheet.html"),
        (["--order", "best"], 2, "'best'"),
    ],
)
def test_command_fails_in_one_line(folders: tuple[Path, Path], arguments: list[str], code: int, words: str) -> None:
    result = run(*folders, *arguments)
    assert result.exit_code == code and words in result.stderr
    assert result.stderr.count("\n") == 1 and not result.stdout


def test_command_without_the_extra_says_what_to_install(folders: tuple[Path, Path]) -> None:
    # In a process of its own: modules that other tests hold must stay the ones that are imported.
    without = "import sys; sys.modules['skimage'] = None; from rtlit.commands import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", without, "evaluate", *map(str, folders)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and "pip install 'rtlit[train]'" in result.stderr
