"""What is seen stays as it was: raw formats, transparency, colour tags and frame sizes, as another FFmpeg sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from rtlit.errors import UsageError
from tests import outside
from tests.video_tools import enhance

PICTURE = ("-f", "lavfi", "-i", "testsrc2=s=66x50:r=25:d=0.2")
# Opaque on the right, clear on the left.
CLEAR = ("-vf", "format=rgba,geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='X*255/W'")


def rgba(path: Path, decoder: str | None = None, size: tuple[int, int] = (66, 50)) -> NDArray[Any]:
    """All frames as they are shown: [frames, rows, columns, 4]."""
    chosen = () if decoder is None else ("-c:v", decoder)
    raw = outside.ffmpeg(*chosen, "-i", path, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgba", "-")
    return np.frombuffer(raw, np.uint8).reshape(-1, size[1], size[0], 4)


def moved(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Mean difference of the colours, in codes."""
    assert one.shape == other.shape
    return float(np.abs(one[..., :3].astype(int) - other[..., :3]).mean())


RAW = {
    ".avi": ["bgr24", "bgra", "rgb24", "pal8", "gray", "yuv420p", "yuyv422", "nv12", "rgb555le", "yuvj420p"],
    ".mov": ["uyvy422", "yuyv422", "rgb24", "argb", "bgra", "gray", "rgb48be", "rgb555be", "bgr24"],
    ".nut": ["gbrp", "yuv422p10le", "rgb565le", "ya8"],
    ".mkv": ["yuv420p", "uyvy422", "yuv410p"],
}


@pytest.mark.parametrize(("suffix", "name"), [(suffix, name) for suffix, names in RAW.items() for name in names])
def test_raw_video_comes_back_as_it_was(tmp_path: Path, suffix: str, name: str) -> None:
    source = outside.make(tmp_path / f"in{suffix}", *PICTURE, "-c:v", "rawvideo", "-pix_fmt", name)
    report = enhance(source, tmp_path / f"out{suffix}")
    assert np.array_equal(rgba(source), rgba(tmp_path / f"out{suffix}"))
    assert report.encoder == "rawvideo" and report.warnings == []


@pytest.mark.parametrize(
    ("suffix", "codec", "name"),
    [
        (".avi", "huffyuv", "bgra"),
        (".avi", "utvideo", "gbrap"),
        (".avi", "zmbv", "bgr0"),
        (".mov", "qtrle", "argb"),
        (".mov", "r210", "gbrp10le"),
        (".mov", "v210", "yuv422p10le"),
        (".mkv", "huffyuv", "yuv422p"),
        (".mkv", "png", "rgb24"),
        (".mkv", "v210", "yuv422p10le"),
    ],
)
def test_lossless_codecs_stay_lossless(tmp_path: Path, suffix: str, codec: str, name: str) -> None:
    source = outside.make(tmp_path / f"in{suffix}", *PICTURE, "-c:v", codec, "-pix_fmt", name)
    enhance(source, tmp_path / f"out{suffix}")
    assert np.array_equal(rgba(source), rgba(tmp_path / f"out{suffix}"))


TRANSPARENT: dict[str, tuple[str, ...]] = {
    "vp9.webm": ("-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", "-b:v", "2M"),
    "vp8.webm": ("-c:v", "libvpx", "-pix_fmt", "yuva420p", "-b:v", "2M", "-auto-alt-ref", "0"),
    "prores.mov": ("-c:v", "prores_ks", "-pix_fmt", "yuva444p10le", "-profile:v", "4444"),
    "qtrle.mov": ("-c:v", "qtrle", "-pix_fmt", "argb"),
    "ffv1.mkv": ("-c:v", "ffv1", "-pix_fmt", "yuva420p"),
    "animation.apng": ("-c:v", "apng", "-pix_fmt", "rgba"),
}


@pytest.mark.parametrize("name", TRANSPARENT)
@pytest.mark.parametrize("suffix", [".webm", ".mkv", ".mov", ".avi", ".mp4"])
def test_transparency(tmp_path: Path, name: str, suffix: str) -> None:
    source = outside.make(tmp_path / name, *PICTURE, *CLEAR, *TRANSPARENT[name])
    own = {"vp9.webm": "libvpx-vp9", "vp8.webm": "libvpx"}.get(name)
    before = rgba(source, own)
    assert before[..., 3].min() < 20
    target = tmp_path / f"out{suffix}"
    report = enhance(source, target)
    after = rgba(target, report.encoder if report.encoder.startswith("libvpx") else None)
    said = sum("transparency" in line for line in report.warnings)
    if suffix == ".mp4" and name != "ffv1.mkv":  # MP4 holds FFV1, and what that holds
        assert said == 1 and after[..., 3].min() == 255
        assert "alpha_mode" not in str(outside.ffmpeg("-i", target, "-f", "ffmetadata", "-")).lower()
    else:
        assert said == 0
        assert np.abs(before[..., 3].astype(int) - after[..., 3]).mean() < 1
    if name.endswith(suffix):
        family = {"libvpx-vp9": "vp9", "libvpx": "vp8", "prores_ks": "prores"}.get(report.encoder, report.encoder)
        assert name.startswith(family)


def test_transparency_in_a_comparison(tmp_path: Path) -> None:
    source = outside.make(tmp_path / "in.mov", *PICTURE, *CLEAR, *TRANSPARENT["qtrle.mov"])
    enhance(source, tmp_path / "out.mov", compare=True)
    both = rgba(tmp_path / "out.mov", size=(132, 50))[..., 3]
    before = rgba(source)[..., 3]
    assert np.array_equal(both[:, :, :66], before) and np.array_equal(both[:, :, 66:], before)


BT709 = ("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709")
COLORS: dict[str, tuple[str, ...]] = {
    "whole.mp4": ("-c:v", "mpeg4", "-q:v", "2", *BT709),
    "matrix alone.mp4": ("-c:v", "mpeg4", "-q:v", "2", "-colorspace", "bt709"),
    "range alone.mkv": ("-c:v", "mpeg4", "-q:v", "2"),
    "jpeg.avi": ("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p"),
    "h264.mp4": ("-c:v", "libx264", "-qp", "4"),
    "vp8.webm": ("-c:v", "libvpx", "-crf", "4", "-b:v", "20M"),
    "ffv1.mkv": ("-c:v", "ffv1"),
}


@pytest.mark.parametrize("name", COLORS)
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi", ".ts", ".webm"])
def test_full_range_looks_the_same(tmp_path: Path, name: str, suffix: str) -> None:
    matrix = ":out_color_matrix=bt709" if "bt709" in COLORS[name] else ""
    scale = ("-vf", f"scale=out_range=pc{matrix}", "-pix_fmt", "yuv420p", "-color_range", "pc")
    ramps = ("-f", "lavfi", "-i", "gradients=s=66x50:r=25:d=0.2:speed=0.01:seed=4")
    source = outside.make(tmp_path / name, *ramps, *scale, *COLORS[name])
    target = tmp_path / f"out{suffix}"
    enhance(source, target)
    before, after = rgba(source), rgba(target)
    assert moved(before, after) < 1.4  # coding loss; a lost range moves these by 8
    assert abs(float(after.mean() - before.mean())) < 0.5


@pytest.mark.parametrize(("codec", "suffix"), [("mpeg4", ".avi"), ("mjpeg", ".avi"), ("libvpx", ".webm")])
def test_a_matrix_that_cannot_be_told_is_converted(tmp_path: Path, codec: str, suffix: str) -> None:
    bars = ("-f", "lavfi", "-i", "smptebars=s=64x48:r=25:d=0.2", "-vf", "scale=out_color_matrix=bt709")
    source = outside.make(tmp_path / "in.mkv", *bars, "-pix_fmt", "yuv444p", "-c:v", "ffv1", *BT709)
    target = tmp_path / f"out{suffix}"
    enhance(source, target, codec=codec)
    shape = (64, 48)
    bar = slice(14, 16)  # within the second bar, away from its edges
    one, other = (rgba(path, size=shape)[:, 4:20, bar, :3].mean((0, 1, 2)) for path in (source, target))
    np.testing.assert_allclose(one, other, atol=4)


def joined(path: Path, *parts: tuple[str, tuple[str, ...]]) -> Path:
    """One transport stream of several, 0.2 s each, as `cat` makes it."""
    pieces = []
    for index, (size, options) in enumerate(parts):
        at = ("-output_ts_offset", str(0.2 * index), "-muxdelay", "0")
        white = ("-f", "lavfi", "-i", f"color=white:s={size}:r=25:d=0.2")
        coded = ("-c:v", "libx264", "-qp", "2", "-bf", "0")
        piece = outside.make(path.with_name(f"{index}.ts"), *white, *coded, *options, *at)
        pieces.append(piece.read_bytes())
    path.write_bytes(b"".join(pieces))
    return path


@pytest.mark.parametrize(
    ("first", "later", "options", "shown"),
    [
        ((64, 48), "128x72", (), (64, 36)),  # 16:9 in 4:3
        ((128, 72), "64x48", (), (96, 72)),
        ((128, 72), "64x48", ("-vf", "setsar=4/3"), (128, 72)),  # pixels wider than high
        ((64, 48), "48x64", (), (36, 48)),
    ],
    ids=str,
)
def test_another_frame_size_is_fitted(
    tmp_path: Path, first: tuple[int, int], later: str, options: tuple[str, ...], shown: tuple[int, int]
) -> None:
    source = joined(tmp_path / "in.ts", ("x".join(map(str, first)), ()), (later, options))
    report = enhance(source, tmp_path / "out.mkv", options=(("qp", "2"),))
    assert sum("frame size" in line for line in report.warnings) == 1
    picture = rgba(tmp_path / "out.mkv", size=first)[-1, ..., 0].astype(int)
    inside = picture > 128
    rows, columns = inside.any(1).sum(), inside.any(0).sum()
    assert abs(columns - shown[0]) <= 2 and abs(rows - shown[1]) <= 2
    assert picture[inside].min() > 200 and (inside.all() or picture[~inside].mean() < 12)
    assert inside[first[1] // 2, first[0] // 2]


def test_another_pixel_format_and_range_in_mid_stream(tmp_path: Path) -> None:
    grey = ("-vf", "drawbox=c=gray:t=fill,scale=out_range=pc", "-pix_fmt", "yuvj420p")
    source = joined(
        tmp_path / "in.ts",
        ("64x48", ("-vf", "drawbox=c=gray:t=fill", "-pix_fmt", "yuv420p")),
        ("64x48", ("-vf", "drawbox=c=gray:t=fill", "-pix_fmt", "yuv444p10le")),
        ("64x48", grey),
    )
    enhance(source, tmp_path / "out.mkv", options=(("qp", "2"),))
    means = rgba(tmp_path / "out.mkv", size=(64, 48))[..., :3].mean((1, 2, 3))
    assert len(means) == 15
    np.testing.assert_allclose(means, 128, atol=1.5)


@pytest.mark.parametrize(
    ("made", "suffix", "codec", "name"),
    [
        (("in.gif",), ".mp4", "h264", "yuv444p"),
        (("-c:v", "qtrle", "in.mov"), ".ts", "h264", "yuv444p"),
        (("-c:v", "msvideo1", "-pix_fmt", "rgb555le", "in.avi"), ".avi", "h264", "yuv444p"),
        (("-c:v", "libvpx-vp9", "-pix_fmt", "gbrp", "in.mkv"), ".flv", "h264", "yuv444p"),
        (("-c:v", "libx264rgb", "in.mp4"), ".avi", "h264", "gbrp"),
        (("-c:v", "libx265", "-pix_fmt", "yuv420p", "in.mp4"), ".flv", "h264", "yuv420p"),
        (("-c:v", "libx265", "-pix_fmt", "yuv420p10le", "in.mp4"), ".avi", "h264", "yuv420p10le"),
    ],
)
def test_what_players_open(tmp_path: Path, made: tuple[str, ...], suffix: str, codec: str, name: str) -> None:
    """No RGB in HEVC and VP9, no HEVC and VP9 in FLV; H.264 in RGB stays that."""
    *options, file = made
    source = outside.make(tmp_path / file, "-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.2", *options)
    report = enhance(source, tmp_path / f"out{suffix}")
    with av.open(str(tmp_path / f"out{suffix}")) as output:
        video = output.streams.video[0]
        assert (video.codec_context.codec.canonical_name, video.codec_context.pix_fmt) == (codec, name)
    one, other = (outside.pixels(path, "rgb24") for path in (source, tmp_path / f"out{suffix}"))
    assert outside.psnr(one, other) > 28
    assert any("is encoded with" in line for line in report.warnings) == (name != "gbrp")


@pytest.mark.parametrize("suffix", [".avi", ".nut"])
def test_transparency_of_12_bits_for_readers_of_today(tmp_path: Path, suffix: str) -> None:
    """FFV1's 4:4:4 with 12 bits and transparency came with FFmpeg 8: those before open 16 bits."""
    source = outside.make(
        tmp_path / "in.mov", "-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.2,format=rgba,colorchannelmixer=aa=0.5",
        "-c:v", "prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le",
    )  # fmt: skip
    assert enhance(source, tmp_path / f"out{suffix}").pixel_format == "yuva444p16le"
    one, other = (outside.pixels(path, "yuva444p") for path in (source, tmp_path / f"out{suffix}"))
    assert outside.psnr(one, other) > 50


@pytest.mark.parametrize(
    ("codec", "suffix", "told"),
    [
        ("ffv1", ".mkv", True),
        ("ffv1", ".mp4", True),
        ("ffv1", ".avi", False),
        ("ffv1", ".nut", False),
        ("libx264", ".avi", True),
        ("libx264", ".y4m", False),
        ("mpeg4", ".avi", False),
        ("mpeg4", ".mkv", True),
    ],
)
def test_primaries_and_transfer_are_not_lost_without_a_word(
    tmp_path: Path, codec: str, suffix: str, told: bool
) -> None:
    source = outside.make(
        tmp_path / "in.mkv", "-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.2,setparams=color_primaries=bt2020:"
        "color_trc=arib-std-b67:colorspace=bt2020nc", "-pix_fmt", "yuv420p", "-c:v", codec,
    )  # fmt: skip
    report = enhance(source, tmp_path / f"out{suffix}")
    with av.open(str(tmp_path / f"out{suffix}")) as output:
        frame = next(output.decode(video=0))
        assert ((frame.color_primaries, frame.color_trc) == (9, 18)) == told
    said = [line for line in report.warnings if "primaries (BT2020) and transfer (HLG)" in line]
    assert len(said) == (not told)


@pytest.mark.parametrize(
    ("codec", "key"), [("libx264", "x264-params"), ("libx265", "x265-params"), ("libsvtav1", "svtav1-params")]
)
def test_parameters_that_an_encoder_skips(tmp_path: Path, codec: str, key: str) -> None:
    source = outside.make(tmp_path / "in.mkv", "-f", "lavfi", "-i", "testsrc2=s=64x64:r=25:d=0.2", "-c:v", "ffv1")
    with pytest.raises(UsageError, match=f"{codec} doesn't start with .*nonsense"):
        enhance(source, tmp_path / "out.mkv", codec=codec, options=((key, "nonsense=1"),))
    enhance(source, tmp_path / "out.mkv", codec=codec, options=((key, "keyint=5"),))
