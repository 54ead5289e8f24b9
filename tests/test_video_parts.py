"""Cutting, comparing, pipes, y4m and what codec and container are chosen."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from rtlit.avframe import planar_name
from rtlit.errors import UsageError
from rtlit.video.formats import output_suffix, plan_encoder
from rtlit.video.settings import Progress, VideoSettings
from rtlit.video.transcode import enhance_video
from tests.video_tools import DATA, enhance, kinds, make_clip, packets, pictures, shown


class Pipe(io.RawIOBase):
    """A stream without seeking, as stdin and stdout are."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        return self.data.read(size)

    def write(self, data: Any) -> int:
        return self.data.write(data)


def test_cut_is_exact_to_a_frame_and_keeps_sound_in_step(tmp_path: Path) -> None:
    source = make_clip(
        tmp_path / "in.mp4",
        range(100),
        sound=True,
        text=[(0.5, 1.5, "over the start"), (2.0, 2.4, "inside"), (3.5, 3.9, "after")],
        chapters=[(0, 2, "first"), (2, 4, "second")],
        options={"g": "30"},
    )
    target = tmp_path / "out.mp4"
    report = enhance(source, target, start=1.2, duration=1.0)
    assert report.frames == 25
    assert shown(target) == [Fraction(i, 25) for i in range(25)]
    hashes = {h: t for t, h in packets(source, "audio")}
    for seconds, h in packets(target, "audio"):
        assert abs(hashes[h] - Fraction(12, 10) - seconds) < Fraction(1, 24000)
        assert 0 <= seconds < 1
    assert len(packets(target, "audio")) == pytest.approx(48000 / 1024, abs=2)
    with av.open(str(target)) as container:
        chapters = [
            (float(c["start"] * c["time_base"]), float(c["end"] * c["time_base"])) for c in container.chapters()
        ]
        stream = container.streams.subtitles[0]
        texts = [(float(p.pts * p.time_base), bytes(p)[2:]) for p in container.demux(stream) if p.size > 2]
    assert chapters == [(0, pytest.approx(0.8)), (pytest.approx(0.8), pytest.approx(1.0))]
    assert texts == [(0, b"over the start"), (pytest.approx(0.8), b"inside")]


@pytest.mark.parametrize("start", [0.0, 0.04, 0.05, 1.0, 3.96])
def test_cut_takes_frames_from_the_start_on(tmp_path: Path, start: float) -> None:
    """The very frames: lossless, so each can be told by its pixels."""
    source = make_clip(tmp_path / "in.mkv", range(100), time_base=Fraction(1, 1000) * 40, codec="ffv1")
    enhance(source, tmp_path / "out.mkv", start=start, duration=0.2, codec="ffv1")
    first = -(-round(start * 1000) // 40)
    expected = pictures(source)[first : first + 5]
    found = pictures(tmp_path / "out.mkv")
    assert len(found) == len(expected)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(found, expected, strict=True))


def test_duration_alone_keeps_the_timestamps(tmp_path: Path) -> None:
    source = DATA / "tc_test_non_zero_start.mp4"
    times = shown(source)
    enhance(source, tmp_path / "out.mp4", duration=float(times[5] - times[0]))
    assert shown(tmp_path / "out.mp4") == times[:5]


@pytest.mark.parametrize("size", [(64, 48), (65, 49), (66, 50)], ids=str)
@pytest.mark.parametrize("turn", ["none", "90", "180", "270"])
def test_compare_is_before_after_as_shown(
    tmp_path: Path, size: tuple[int, int], turn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.test_video_kept import TURNS

    source = make_clip(
        tmp_path / "in.mkv", range(3), codec="ffv1", size=size, matrix=TURNS.get(turn), time_base=Fraction(1, 25)
    )
    target = tmp_path / "out.mkv"
    monkeypatch.setattr("rtlit.enhancer.Enhancer.enhance_planes", _negative)
    enhance(source, target, compare=True, codec="ffv1")
    # Turned by 90° the picture's left is its top row, by 270° its bottom row, by 180° its right.
    upright = {
        "none": lambda p: p,
        "90": lambda p: np.rot90(p, 1),
        "180": lambda p: np.rot90(p, 2),
        "270": lambda p: np.rot90(p, -1),
    }
    with av.open(str(source)) as a, av.open(str(target)) as b:
        one, other = next(a.decode(video=0)), next(b.decode(video=0))
        assert one.rotation == other.rotation
        turns = {0: "none", 90: "90", -90: "270", 180: "180", -180: "180"}[one.rotation]
    before, both = upright[turns](pictures(source)[0][0]), upright[turns](pictures(target)[0][0])
    assert both.shape[0] == before.shape[0] and both.shape[1] >= 2 * before.shape[1]
    assert both.shape[1] % 2 == 0
    half = both.shape[1] // 2
    width = before.shape[1]
    # Padding to whole chroma samples comes after each half's picture as coded, which may be to its left as shown.
    places = [part[:, i : i + width] for part in (both[:, :half], both[:, half:]) for i in (0, half - width)]
    assert any(np.array_equal(place, before) for place in places[:2])
    assert any(np.array_equal(place, 255 - before) for place in places[2:])


def _negative(self: Any, planes: Any, pixels: Any, color: Any, pts: Any, out: Any, turns: int) -> None:
    for plane, result in zip(planes, out, strict=True):
        result[:] = 255 - plane


def test_stdin_and_stdout_in_matroska_and_y4m(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", range(20), sound=True, time_base=Fraction(1, 25), codec="ffv1")
    out = Pipe()
    report = enhance(Pipe(source.read_bytes()), out, codec="ffv1")
    result = out.data.getvalue()
    assert report.frames == 20
    assert shown(io.BytesIO(result)) == shown(source)
    assert packets(io.BytesIO(result), "audio") == packets(source, "audio")

    y4m = Pipe()
    report = enhance(Pipe(result), y4m, output_format="y4m")
    assert any("audio" in line for line in report.warnings)
    assert y4m.data.getvalue().startswith(b"YUV4MPEG2 W64 H48 F25:1")
    again = Pipe()
    assert enhance(Pipe(y4m.data.getvalue()), again).warnings == []
    assert again.data.getvalue().startswith(b"YUV4MPEG2")
    before, after = pictures(source), pictures(io.BytesIO(again.data.getvalue()))
    assert len(after) == 20
    assert all(np.array_equal(a, b) for x, y in zip(before, after, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuv444p", "gray"])
def test_y4m_in_other_formats(tmp_path: Path, pixels: str) -> None:
    source = make_clip(tmp_path / "in.mkv", range(3), codec="ffv1", pixels=pixels, time_base=Fraction(1, 25))
    enhance(source, tmp_path / "out.y4m")
    for one, other in zip(pictures(source), pictures(tmp_path / "out.y4m"), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_progress_and_report(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", range(30))
    seen: list[Progress] = []
    report = enhance_video(source, tmp_path / "out.mp4", strength=0, device="cpu", on_progress=seen.append)
    last = seen[-1]
    assert (last.frames, last.frames_total) == (30, 30)
    assert last.seconds_done == pytest.approx(1.2) and last.seconds_total == pytest.approx(1.2)
    assert [p.frames for p in seen] == sorted(p.frames for p in seen)
    told = report.to_dict()
    assert set(told["stage_ms"]) == {"decode", "analyze", "estimate", "smooth", "apply", "encode"}
    assert all(ms > 0 for ms in told["stage_ms"].values())
    assert (told["frames"], told["encoder"], told["video_seconds"]) == (30, "libx264", pytest.approx(1.2))
    assert told["peak_rss_mb"] > 50


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux hands it on")
def test_peak_memory_is_not_that_of_the_process_before() -> None:
    held = np.ones(60_000_000)  # 480 MB, here
    code = "from rtlit.video.transcode import _peak_rss_mb; print(_peak_rss_mb())"
    told = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert 5 < float(told) < held.nbytes / 1e6 / 2


@pytest.mark.parametrize(
    ("name", "planar"),
    {
        "nv12": "yuv420p", "p010le": "yuv420p10le", "yuyv422": "yuv422p", "rgb24": "gbrp", "bgr0": "gbrp",
        "rgba": "gbrap", "pal8": "gbrp", "gray10le": "gray10le", "yuv420p10be": "yuv420p10le", "yuvj420p": "yuvj420p",
        "rgb48be": "gbrp16le", "yuva420p": "yuva420p", "monob": "gray", "gbrpf32le": "gbrp16le",
    }.items(),
)  # fmt: skip
def test_planar_name(name: str, planar: str) -> None:
    assert planar_name(av.VideoFormat(name, 64, 64)) == planar


@pytest.mark.parametrize(
    ("codec", "pixels", "size", "muxer", "encoder", "stored"),
    [
        ("h264", "yuv420p", (640, 360), "mp4", "libx264", "yuv420p"),
        ("h264", "yuvj420p", (640, 360), "mp4", "libx264", "yuvj420p"),
        ("hevc", "yuv444p12le", (641, 361), "mp4", "libx265", "yuv444p12le"),
        ("vp9", "yuv420p10le", (321, 241), "webm", "libsvtav1", "yuv420p10le"),  # no 10-bit VP9 encoder
        ("libdav1d", "yuv444p", (320, 240), "mp4", "libx264", "yuv444p"),  # SVT-AV1 is 4:2:0 only
        ("prores", "yuv422p10le", (320, 240), "mov", "prores_ks", "yuv422p10le"),
        ("qtrle", "rgb24", (320, 240), "mov", "qtrle", "rgb24"),
        ("ffv1", "bgr0", (320, 240), "matroska", "ffv1", "bgr0"),
        ("mpeg2video", "yuv420p", (121, 81), "mp4", "mpeg2video", "yuv420p"),
        ("wmv3", "yuv420p", (320, 240), "matroska", "libx264", "yuv420p"),
        ("wmv3", "yuv420p10le", (320, 240), "matroska", "libx265", "yuv420p10le"),
        ("h264", "yuv420p", (320, 240), "webm", "libsvtav1", "yuv420p"),
    ],
)
def test_encoder_choice(codec: str, pixels: str, size: tuple[int, int], muxer: str, encoder: str, stored: str) -> None:
    plan = plan_encoder(codec, av.VideoFormat(pixels, *size), size, muxer, VideoSettings())
    assert (plan.name, plan.pixel_format) == (encoder, stored)


def test_what_an_encoder_cannot_hold_is_said() -> None:
    pixels = av.VideoFormat("yuv420p12le", 64, 48)
    plan = plan_encoder("hevc", pixels, (64, 48), "mp4", VideoSettings(codec="libx264"))
    assert plan.pixel_format == "yuv420p10le"
    assert any("yuv420p12le" in line for line in plan.warnings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"codec": "nope"}, "--codec nope"),
        ({"codec": "aac"}, "audio, not video"),
        ({"codec": "utvideo"}, "mp4 can't hold it"),
        ({"options": (("nope", "1"),)}, "-e nope=1"),
        ({"codec": "mpeg4", "crf": 20}, "--crf"),
        ({"codec": "mpeg4", "preset": "fast"}, "--preset fast"),
    ],
    ids=str,
)
def test_settings_that_an_encoder_does_not_take(settings: dict[str, Any], words: str) -> None:
    pixels = av.VideoFormat("yuv420p", 64, 48)
    with pytest.raises(UsageError, match=words):
        plan_encoder("h264", pixels, (64, 48), "mp4", VideoSettings(**settings))


@pytest.mark.parametrize(
    "wrong", [{"start": -1}, {"duration": 0}, {"crf": -1}, {"codec": " "}, {"options": (("", "1"),)}]
)
def test_settings_check_themselves(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        VideoSettings(**wrong)


def test_quality_options_of_the_user_replace_the_default() -> None:
    pixels = av.VideoFormat("yuv420p", 64, 48)
    asked = VideoSettings(preset="medium", options=(("qp", "0"), ("x264-params", "ref=1")))
    assert plan_encoder("h264", pixels, (64, 48), "mp4", asked).options == {
        "preset": "medium", "qp": "0", "x264-params": "ref=1",
    }  # fmt: skip


def test_output_suffix() -> None:
    names = ["a.mp4", "b.MOV", "c.mkv", "d.wmv", "e.webm", "f"]
    assert [output_suffix(Path(n)) for n in names] == [".mp4", ".MOV", ".mkv", ".mkv", ".webm", ".mkv"]


@pytest.mark.parametrize("suffix", [".mov", ".mkv", ".ts", ".avi", ".webm", ".nut"])
def test_every_container_gets_all_frames(tmp_path: Path, suffix: str) -> None:
    source = make_clip(tmp_path / "in.mp4", range(25), sound=True)
    enhance(source, tmp_path / f"out{suffix}", codec="libvpx-vp9" if suffix == ".webm" else None)
    times = shown(tmp_path / f"out{suffix}")
    assert len(times) == 25
    steps = [float(b - a) for a, b in itertools.pairwise(times)]
    assert steps == [pytest.approx(0.04, abs=0.0011)] * 24
    assert {kind for kind, _ in kinds(tmp_path / f"out{suffix}")} == {"video", "audio"}


def test_frame_size_that_changes_midway_is_scaled_and_said(tmp_path: Path) -> None:
    source = tmp_path / "in.ts"  # a transport stream is two streams set end to end
    first, second = make_clip(tmp_path / "a.ts", range(10)), make_clip(tmp_path / "b.ts", range(10, 20), size=(96, 64))
    source.write_bytes(first.read_bytes() + second.read_bytes())
    report = enhance(source, tmp_path / "out.mkv")
    assert report.frames == 20 and (report.width, report.height) == (64, 48)
    assert any("frame size changes" in line for line in report.warnings)


@pytest.mark.parametrize("name", ["rgba", "ya8"])
def test_transparency_is_kept_where_the_inputs_codec_has_no_place(name: str, tmp_path: Path) -> None:
    source, target = tmp_path / "in.mov", tmp_path / "out.mkv"
    with av.open(str(source), "w") as output:
        stream = output.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, name
        rng = np.random.default_rng(0)
        for pts in range(3):
            codes = rng.integers(0, 256, (48, 64, 4), np.uint8)
            frame = av.VideoFrame.from_ndarray(codes, "rgba").reformat(format=name)
            frame.pts = pts
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    report = enhance_video(source, target, strength=0)
    assert report.encoder == "ffv1"
    with av.open(str(source)) as before, av.open(str(target)) as after:
        pairs = zip(before.decode(video=0), after.decode(video=0), strict=True)
        for a, b in pairs:
            alphas = [frame.to_ndarray(format="rgba")[..., 3] for frame in (a, b)]
            assert np.array_equal(*alphas)
