"""Clips to measure on, and `rtlit evaluate-video`: what is known of a clip that stays, drifts or is left alone."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

pytest.importorskip("skimage", reason="needs the extra `train`")
pytest.importorskip("PIL", reason="needs the extra `train`")

from rtlit.commands import main
from rtlit.errors import InputError, UsageError
from rtlit.network import CurveNetwork, save_network
from rtlit.settings import EnhanceSettings
from rtlit.training.evaluate_video import score_clip
from rtlit.training.flicker import Clip
from rtlit.training.footage import Backlight, Footage, backlit, load_footage, reduced


def still(picture: Clip, count: int, fps: int = 24) -> Footage:
    """A small part of the real picture, standing still."""
    frame = picture[::5, ::5]
    return Footage("still", np.stack([frame] * count), np.arange(count) / fps)


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    """Weights of a network that has learned nothing: its curves change nothing."""
    save_network(CurveNetwork(), tmp_path / "identity.safetensors")
    return tmp_path / "identity.safetensors"


def test_footage_is_the_clip_reduced(clip: Path, picture: Clip) -> None:
    footage = load_footage(clip, 3)
    assert footage.frames.shape == (3, 360, 640, 3) and footage.truth is None
    assert footage.seconds == pytest.approx(np.arange(3) / 24)
    error = footage.frames[0].astype(float) - reduced(picture[None], 2)[0]
    assert np.abs(error).mean() < 3, "area means of 2×2 pixels, but for swscale's rounding and chroma"


def test_one_frame_is_no_video(tmp_path: Path, picture: Clip) -> None:
    import av

    path = tmp_path / "one.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(24))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:48, :64]), "rgb24").reformat(format="yuv420p")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match=r"one\.mkv: holds a single frame"):
        load_footage(path, 10)


def test_simulated_backlight_darkens_a_part_and_knows_the_truth(picture: Clip) -> None:
    scene = still(picture, 2)
    dark = backlit(scene, Backlight(seed=3, period=1e9))
    assert dark.truth is scene.frames and dark.frames.dtype == np.uint8
    ratio = (dark.frames[0].astype(float).mean(-1) + 1) / (scene.frames[0].astype(float).mean(-1) + 1)
    assert (ratio < 0.6).mean() > 0.15, "the mask covers 20 to 85 %"
    assert (ratio > 0.85).mean() > 0.05, "the rest stays"
    assert dark.frames.mean() < 0.9 * scene.frames.mean()


def test_noise_is_fresh_and_the_light_repeats_with_its_seed(picture: Clip) -> None:
    scene = still(picture, 2)
    one, again, other = (backlit(scene, Backlight(seed, period=1e9)).frames for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    difference = np.abs(one[0].astype(float) - one[1])
    assert 0 < difference.mean() < 5, "the same light, other noise"
    assert np.abs(one[0].astype(float) - other[0]).mean() > 3 * difference.mean()


def test_the_light_drifts_and_comes_back(picture: Clip) -> None:
    means = backlit(still(picture, 25), Backlight(period=1.0)).frames.mean((1, 2, 3))
    assert means[12] > 1.05 * means[0], "half the EV after half a period"
    assert means[24] == pytest.approx(means[0], rel=0.01)
    assert np.all(np.diff(means[:13]) > -0.1) and np.all(np.diff(means[12:]) < 0.1)


def test_period_must_be_positive() -> None:
    with pytest.raises(UsageError, match="period"):
        Backlight(period=0)


def test_reduced_takes_area_means() -> None:
    clip = np.zeros((1, 4, 4, 3), np.uint8)
    clip[0, :2, 0] = 200
    assert reduced(clip, 2)[0, :, :, 0].tolist() == [[100, 0], [0, 0]]
    assert reduced(clip, 1) is clip


def test_curves_that_change_nothing_score_as_the_input(picture: Clip, identity: Path) -> None:
    dark = backlit(still(picture, 4))
    score = score_clip(dark, EnhanceSettings(weights=identity, threads=1), pairs=2)
    before, plain, ours = (score.versions[name] for name in ("input", "unsmoothed", "ours"))
    assert (score.frames, score.seconds) == (4, pytest.approx(3 / 24))
    assert before.e_warp == plain.e_warp == ours.e_warp > 0
    assert before.mabd == ours.mabd > 0 and before.psnr == ours.psnr and before.mabd_error == ours.mabd_error
    assert ours.gain_jitter == 0 and before.gain_jitter is None


def test_smoothing_steadies_the_shipped_network(clip: Path) -> None:
    score = score_clip(load_footage(clip, 8), EnhanceSettings(threads=1, smoothing=0.5), pairs=2)
    plain, ours = score.versions["unsmoothed"], score.versions["ours"]
    assert plain.gain_jitter and ours.gain_jitter and ours.gain_jitter < 0.5 * plain.gain_jitter
    assert ours.e_warp < plain.e_warp and ours.mabd < plain.mabd


def test_visit_sees_all_versions(picture: Clip, identity: Path) -> None:
    seen: dict[str, Clip] = {}
    scene = backlit(still(picture, 2))
    score_clip(scene, EnhanceSettings(weights=identity, threads=1), 1, seen.update)
    assert list(seen) == ["input", "unsmoothed", "ours", "truth"]
    assert seen["truth"] is scene.truth and np.array_equal(seen["ours"], scene.frames)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate-video", "--threads", "1", *map(str, arguments)])


def test_command_prints_a_json_line_a_clip(clip: Path, identity: Path) -> None:
    result = run(clip, clip, "--weights", identity, "--frames", 3, "--pairs", 1, "--json")
    assert result.exit_code == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) == 2 and rows[0] == rows[1]
    assert rows[0]["clip"] == "juggler.mp4" and rows[0]["frames"] == 3
    assert rows[0]["ours"] == {**rows[0]["input"], "gain_jitter": 0}


def test_command_prints_a_table_and_a_sheet(clip: Path, identity: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.html"
    result = run(clip, "--weights", identity, "--frames", 3, "--pairs", 1, "--simulate", "--sheet", sheet)
    lines = result.stdout.splitlines()
    assert result.exit_code == 0 and max(map(len, lines)) <= 80 and str(sheet) in result.stderr
    before, ours = (next(line.split() for line in lines if name in line) for name in (" input ", " ours "))
    assert float(before[-1]) == float(ours[-1]) > 5, "PSNR, as the clip itself is the truth"
    assert sheet.read_text().count("<h2>juggler.mp4 at ") == 3
    assert sheet.read_text().count("<figcaption>truth<") == 3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["missing.mp4"], 1, "missing.mp4: no such file"),
        ([__file__], 1, "is not a video"),
        ([], 2, "CLIP"),
        (["clip.mp4", "--frames", 1], 2, "--frames"),
        (["clip.mp4", "--smoothing", -1], 2, "--smoothing"),
        (["clip.mp4", "--sheet", "sheet.txt"], 2, "sheet.txt"),
    ],
)
def test_command_fails_in_one_line(arguments: list[object], code: int, words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code and words in result.stderr
    assert result.stderr.count("\n") == 1 and not result.stdout
