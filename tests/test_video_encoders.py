"""Encoders that take a few rates, sizes or profiles alone: what they get, and when its frames are shown."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests import outside
from tests.video_tools import enhance


def picture(rate: str = "25", size: str = "64x48", length: str = "0.4") -> tuple[str, ...]:
    return ("-f", "lavfi", "-i", f"testsrc2=s={size}:r={rate}:d={length}")


# 25 frames a second, of which 3 … 7 are missing; at 50, where every other one is missing at first.
GAP = ("-vf", "select='not(between(n,3,7))'", "-fps_mode", "vfr")
MIXED = ("-vf", "select='gt(n,9)+not(mod(n,2))'", "-fps_mode", "vfr")


def starts(path: Path) -> list[Fraction]:
    shown = [frame.at for frame in outside.frames(path)]
    return [at - shown[0] for at in shown]


@pytest.mark.parametrize(
    ("suffix", "codec"), [(".ts", "mpeg2video"), (".mp4", "mpeg2video"), (".mkv", "mpeg1video"), (".mov", "dnxhd")]
)
def test_frames_are_repeated_at_even_steps(tmp_path: Path, suffix: str, codec: str) -> None:
    source = outside.make(tmp_path / "in.mkv", *picture(size="320x240", length="0.8"), *GAP, "-c:v", "ffv1")
    assert len(outside.frames(source)) == 15
    report = enhance(source, tmp_path / f"out{suffix}", codec=codec)
    assert starts(tmp_path / f"out{suffix}") == [Fraction(n, 25) for n in range(20)]
    said = [line for line in report.warnings if "even steps" in line]
    assert len(said) == 1 and "5 frames are repeated, 0 are dropped" in said[0]
    pictures = [unit.check for unit in outside.frames(tmp_path / f"out{suffix}")]
    assert codec != "dnxhd" or len(set(pictures[2:8])) == 1  # the one before the gap is held


def test_y4m_has_even_steps(tmp_path: Path) -> None:
    source = outside.make(tmp_path / "in.mkv", *picture(length="0.8"), *GAP, "-c:v", "ffv1")
    report = enhance(source, tmp_path / "out.y4m")
    assert len(outside.frames(tmp_path / "out.y4m")) == 20
    assert any("5 frames are repeated" in line for line in report.warnings)


def test_two_frames_in_one_step(tmp_path: Path) -> None:
    source = outside.make(
        tmp_path / "in.mkv", *picture(), "-vf", "setpts='(N-0.7*eq(N,5))/25/TB'", "-fps_mode", "passthrough", "-c:v",
        "ffv1",
    )  # fmt: skip
    assert len(outside.frames(source)) == 10
    report = enhance(source, tmp_path / "out.ts", codec="mpeg2video")
    assert starts(tmp_path / "out.ts") == [Fraction(n, 25) for n in range(10)]
    assert any("1 frames are repeated, 1 are dropped" in line for line in report.warnings)


@pytest.mark.parametrize("suffix", [".ts", ".mp4", ".mpg"])
def test_every_other_frame_of_twice_the_rate(tmp_path: Path, suffix: str) -> None:
    source = outside.make(tmp_path / "in.mkv", *picture("120", "320x240"), "-c:v", "ffv1")
    report = enhance(source, tmp_path / f"out{suffix}", codec="mpeg2video")
    assert all(abs(at - Fraction(n, 60)) < Fraction(1, 90000) for n, at in enumerate(starts(tmp_path / f"out{suffix}")))
    assert len(starts(tmp_path / f"out{suffix}")) == 24
    assert any("0 frames are repeated, 24 are dropped" in line for line in report.warnings)
    even, other = (outside.pixels(path, "yuv420p") for path in (source, tmp_path / f"out{suffix}"))
    assert all(outside.psnr(even[2 * n], other[n]) > 37 for n in range(24))


@pytest.mark.parametrize(("suffix", "codec"), [(".ts", "mpeg2video"), (".mov", "dnxhd"), (".avi", "mpeg4")])
def test_frames_that_only_move_are_said_to(tmp_path: Path, suffix: str, codec: str) -> None:
    source = outside.make(
        tmp_path / "in.mkv", *picture(size="320x240"), "-vf", "settb=1/1000,setpts='N*40+13*gt(mod(N,3),1)'",
        "-fps_mode", "passthrough", "-enc_time_base", "1/1000", "-c:v", "ffv1",
    )  # fmt: skip
    report = enhance(source, tmp_path / f"out{suffix}", codec=codec)
    (line,) = (line for line in report.warnings if "even steps" in line)
    assert line.endswith(": frames are moved by up to 13 ms")


def test_even_steps_begin_with_the_first_frame(tmp_path: Path) -> None:
    """Not at a step counted from 0: the sound would be up to half a frame early or late."""
    source = outside.make(
        tmp_path / "in.mkv", *picture(), "-f", "lavfi", "-i", "sine=d=0.5", "-vf", "setpts=PTS+0.013/TB",
        "-c:v", "ffv1", "-c:a", "pcm_s16le",
    )  # fmt: skip
    enhance(source, tmp_path / "out.mkv", codec="mpeg2video")
    apart = [outside.frames(path)[0].at - outside.sound(path)[0].at for path in (source, tmp_path / "out.mkv")]
    assert abs(apart[0] - apart[1]) <= Fraction(1, 1000)


@pytest.mark.parametrize(("rate", "expected"), [("12.5", 25), ("15", 30), ("10", 30), ("24000/1001", "24000/1001")])
def test_rates_that_mpeg2_does_not_know(tmp_path: Path, rate: str, expected: Any) -> None:
    source = outside.make(tmp_path / "in.avi", *picture(rate, length="0.8"), "-c:v", "mpeg4", "-q:v", "2")
    report = enhance(source, tmp_path / "out.ts", codec="mpeg2video")
    found = starts(tmp_path / "out.ts")
    assert all(abs(at - n / Fraction(expected)) < Fraction(1, 90000) for n, at in enumerate(found))
    length = len(outside.frames(source)) / Fraction(rate)
    assert abs(found[-1] + 1 / Fraction(expected) - length) < Fraction(1, 45000)
    assert any("are repeated" in line for line in report.warnings) == (Fraction(rate) != Fraction(expected))


def test_mpeg4_keeps_times_that_its_clock_is_too_coarse_for(tmp_path: Path) -> None:
    """Its time base has 16 bits: 1/90000 is too fine, 1/45000 does."""
    source = outside.make(
        tmp_path / "in.mp4", *picture("50"), *MIXED, "-c:v", "libx264", "-video_track_timescale", "90000"
    )
    report = enhance(source, tmp_path / "out.mp4", codec="mpeg4")
    assert starts(tmp_path / "out.mp4") == starts(source) and report.warnings == []


@pytest.mark.parametrize(
    ("profile", "name", "size"),
    [
        ("dnxhr_sq", "yuv422p", "320x240"),
        ("dnxhr_hqx", "yuv422p10le", "320x240"),
        ("dnxhr_444", "yuv444p10le", "320x240"),
        ("dnxhd", "yuv422p", "1280x720"),
    ],
)
def test_dnxhr_and_dnxhd(tmp_path: Path, profile: str, name: str, size: str) -> None:
    rate = ("-b:v", "90M") if profile == "dnxhd" else ()
    source = outside.make(
        tmp_path / "in.mov", *picture(size=size, length="0.12"), "-c:v", "dnxhd", "-profile:v", profile, *rate,
        "-pix_fmt", name,
    )  # fmt: skip
    report = enhance(source, tmp_path / "out.mov")
    assert (report.encoder, report.pixel_format, report.warnings) == ("dnxhd", name, [])
    sizes = [{unit.size for unit in outside.packets(path)} for path in (source, tmp_path / "out.mov")]
    assert sizes[0] == sizes[1]  # a profile's frames are of one size
    one, other = (outside.pixels(path, "yuv444p") for path in (source, tmp_path / "out.mov"))
    assert outside.psnr(one, other) > 38


@pytest.mark.parametrize("codec", ["dnxhd", "dvvideo"])
def test_encoders_start_with_their_defaults_where_they_can(tmp_path: Path, codec: str) -> None:
    source = outside.make(tmp_path / "in.mkv", *picture(size="720x576", length="0.12"), "-c:v", "ffv1")
    report = enhance(source, tmp_path / "out.mov", codec=codec)
    assert report.encoder == codec
    assert len(outside.frames(tmp_path / "out.mov")) == 3


@pytest.mark.parametrize(
    ("size", "rate", "name", "suffix"),
    [
        ("720x576", "25", "yuv420p", ".avi"),
        ("720x480", "30000/1001", "yuv411p", ".mov"),
        ("720x576", "25", "yuv422p", ".avi"),
    ],
)
def test_dv(tmp_path: Path, size: str, rate: str, name: str, suffix: str) -> None:
    source = outside.make(
        tmp_path / f"in{suffix}", *picture(rate, size, "0.12"), "-c:v", "dvvideo", "-pix_fmt", name
    )
    report = enhance(source, tmp_path / f"out{suffix}")
    assert (report.encoder, report.pixel_format) == ("dvvideo", name)
    one, other = (outside.pixels(path, "yuv444p") for path in (source, tmp_path / f"out{suffix}"))
    assert outside.psnr(one, other) > 38


@pytest.mark.parametrize(
    ("codec", "name", "size", "suffix"),
    [
        ("cinepak", "rgb24", "64x48", ".avi"),
        ("h261", "yuv420p", "352x288", ".mkv"),
        ("h263", "yuv420p", "352x288", ".mov"),
        ("flv", "yuv420p", "64x48", ".flv"),
        ("wmv2", "yuv420p", "64x48", ".mkv"),
        ("mpeg1video", "yuv420p", "64x48", ".mpg"),
        ("svq1", "yuv410p", "64x48", ".mov"),
        ("jpeg2000", "yuv444p", "64x48", ".mov"),
        ("asv2", "yuv420p", "64x48", ".avi"),
        ("ljpeg", "bgr24", "64x48", ".mkv"),
        ("cfhd", "yuv422p10le", "64x48", ".mov"),
        ("vc2", "yuv420p", "64x48", ".mkv"),
        ("snow", "yuv420p", "64x48", ".avi"),
        ("msvideo1", "rgb555le", "64x48", ".avi"),
    ],
)
def test_old_codecs_come_out_as_they_were(tmp_path: Path, codec: str, name: str, size: str, suffix: str) -> None:
    rate = "30000/1001" if codec == "h261" else "25"
    source = outside.make(
        tmp_path / f"in{suffix}", *picture(rate, size, "0.2"), "-c:v", codec, "-pix_fmt", name, "-q:v", "3", "-strict",
        "-2",
    )  # fmt: skip
    enhance(source, tmp_path / f"out{suffix}")
    seen = "rgb24" if name.startswith("rgb") else "yuv420p"  # the result's matrix is another than ffmpeg's own
    one, other = (outside.pixels(path, seen) for path in (source, tmp_path / f"out{suffix}"))
    assert one.shape == other.shape and outside.psnr(one, other) > 34
