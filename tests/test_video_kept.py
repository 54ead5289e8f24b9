"""What stays as it was: times, streams, tags, pixels."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.video_tools import DATA, enhance, kinds, make_clip, packets, pictures, shown

HDR_TAGS = {"color_primaries": 9, "color_trc": 16, "colorspace": 9, "color_range": 1}
MASTERING = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
# Quarter turns and mirrors as FFmpeg's display matrix holds them (16.16 and 2.30 fixed point).
ONE = 1 << 16
TURNS = {
    "90": [0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30],
    "180": [-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30],
    "270": [0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30],
    "mirrored": [-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30],
}


@pytest.mark.parametrize("steps", [range(20), (0, 1, 5, 6, 7, 30, 31, 100), (7, 8, 11, 12), (0,)], ids=str)
@pytest.mark.parametrize(("suffix", "base"), [(".mp4", Fraction(1, 90000)), (".mkv", Fraction(1, 1000))])
def test_timestamps_are_exact(tmp_path: Path, steps: Any, suffix: str, base: Fraction) -> None:
    """VFR, a late start and a single frame."""
    source = make_clip(tmp_path / f"in{suffix}", [3003 * base.denominator // 90000 * s for s in steps], time_base=base)
    target = tmp_path / f"out{suffix}"
    report = enhance(source, target)
    assert shown(target) == shown(source)
    assert report.frames == len(steps)
    with av.open(str(source)) as a, av.open(str(target)) as b:
        assert b.streams.video[0].time_base == a.streams.video[0].time_base
        assert b.streams.video[0].start_time == a.streams.video[0].start_time
        assert b.streams.video[0].duration == a.streams.video[0].duration
        assert b.duration == pytest.approx(a.duration, abs=1000)  # µs; the containers' own duration is in ms


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 30])
def test_times_of_videos_shorter_than_x265s_delay(tmp_path: Path, frames: int) -> None:
    """x265 makes their decoding times up; now and then MP4 would refuse them."""
    source = make_clip(tmp_path / "in.mp4", range(frames), time_base=Fraction(1, 25))
    target = tmp_path / "out.mp4"
    enhance(source, target, codec="libx265")
    assert shown(target) == shown(source)
    with av.open(str(source)) as a, av.open(str(target)) as b:
        assert b.streams.video[0].duration == a.streams.video[0].duration
        times = [(packet.dts, packet.pts) for packet in b.demux(video=0) if packet.dts is not None]
    assert all(dts <= pts for dts, pts in times) and [dts for dts, _ in times] == sorted({dts for dts, _ in times})


@pytest.mark.parametrize(
    "pixels",
    ["yuv420p", "yuv422p", "yuv444p", "yuv411p", "yuv420p10le", "yuv444p10le", "yuv420p12le", "yuv444p16le", "gray"],
)
@pytest.mark.parametrize("size", [(64, 48), (33, 17)], ids=str)
def test_strength_0_is_bit_exact_when_lossless(tmp_path: Path, pixels: str, size: tuple[int, int]) -> None:
    source = make_clip(tmp_path / "in.mkv", range(4), codec="ffv1", pixels=pixels, size=size, time_base=Fraction(1, 25))
    target = tmp_path / "out.mkv"
    report = enhance(source, target, codec="ffv1")
    assert (report.pixel_format, report.encoder) == (pixels, "ffv1")
    before, after = pictures(source), pictures(target)
    assert len(before) == len(after) == 4
    for one, other in zip(before, after, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_strength_0_with_x264_qp_0_is_bit_exact(tmp_path: Path) -> None:
    source = DATA / "tc_bt601_full_range.mp4"
    target = tmp_path / "out.mp4"
    enhance(source, target, options=(("qp", "0"),))
    for one, other in zip(pictures(source), pictures(target), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_real_backlit_clip_gets_lighter(tmp_path: Path, clip: Path) -> None:
    enhance(clip, tmp_path / "out.mp4", strength=1.0, duration=0.4, preset="ultrafast")
    enhance(clip, tmp_path / "same.mp4", strength=0.0, duration=0.4, preset="ultrafast")
    lifted, same = (np.mean([p[0].mean() for p in pictures(tmp_path / name)]) for name in ("out.mp4", "same.mp4"))
    assert lifted > same


def test_sound_subtitles_chapters_and_tags(tmp_path: Path) -> None:
    source = make_clip(
        tmp_path / "in.mp4",
        range(50),
        sound=True,
        text=[(0.2, 0.8, "one"), (1.0, 1.6, "two")],
        metadata={"title": "A title", "comment": "a comment", "com.example.custom": "kept"},
        chapters=[(0, 1, "first"), (1, 2, "second")],
    )
    target = tmp_path / "out.mp4"
    report = enhance(source, target)
    assert report.warnings == []
    assert kinds(target) == kinds(source)
    for kind in ("audio", "subtitle"):
        assert packets(target, kind) == packets(source, kind)
        assert packets(target, kind)
    with av.open(str(source)) as a, av.open(str(target)) as b:
        marks = [[(c["start"] * c["time_base"], c["metadata"]) for c in x.chapters()] for x in (a, b)]
        assert marks[0] == marks[1] == [(0, {"title": "first"}), (1, {"title": "second"})]
        for key in ("title", "comment"):
            assert b.metadata[key] == a.metadata[key]
        for one, other in zip(a.streams, b.streams, strict=True):
            assert (other.language, other.disposition) == (one.language, one.disposition)
        assert b.streams.audio[0].language == "deu"


@pytest.mark.parametrize("name", ["media3_sample_with_srt.mkv", "media3_sample_with_pgs_subtitles.mkv"])
def test_matroska_subtitles_are_copied(tmp_path: Path, name: str) -> None:
    target = tmp_path / "out.mkv"
    assert enhance(DATA / name, target, preset="ultrafast").warnings == []
    for kind in ("audio", "subtitle"):
        assert packets(target, kind) == packets(DATA / name, kind)
    assert packets(target, "subtitle")


@pytest.mark.parametrize(
    "pair", [(".mp4", ".mkv", "mov_text"), (".mkv", ".mp4", "subrip"), (".mkv", ".webm", "ass")], ids=str
)
def test_text_subtitles_are_converted(tmp_path: Path, pair: tuple[str, str, str]) -> None:
    lines = [(0.2, 0.6, "Grüße"), (1.0, 1.5, "two")]
    source = make_clip(tmp_path / f"in{pair[0]}", range(50), text=lines, subtitle=pair[2])
    target = tmp_path / f"out{pair[1]}"
    report = enhance(source, target, codec="libvpx-vp9" if pair[1] == ".webm" else None)
    assert any("subtitle stream 1 is converted" in line for line in report.warnings)
    with av.open(str(target)) as container:
        stream = container.streams.subtitles[0]
        assert stream.language == "fra"
        found = [(p, stream.codec_context.decode2(p)) for p in container.demux(stream) if p.size]
    told = [(float(p.pts * p.time_base), float(p.duration * p.time_base), s[0].ass) for p, s in found if s and len(s)]
    assert [t[:2] for t in told] == [pytest.approx((begin, end - begin), abs=0.002) for begin, end, _ in lines]
    assert [line.encode() in t[2] for t, (_, _, line) in zip(told, lines, strict=True)] == [True, True]


def test_sound_that_the_target_cannot_hold_is_converted(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", range(50), sound=True)
    report = enhance(source, tmp_path / "out.webm", codec="libvpx-vp9")
    assert any("converted from aac to libopus" in line for line in report.warnings)
    with av.open(str(tmp_path / "out.webm")) as container:
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert samples / 48000 == pytest.approx(2.0, abs=0.06)


def test_attachment(tmp_path: Path) -> None:
    source = DATA / "ae_testsrc_with_attachment.mkv"
    enhance(source, tmp_path / "out.mkv", preset="ultrafast")
    with av.open(str(source)) as a, av.open(str(tmp_path / "out.mkv")) as b:
        one, other = a.streams.attachments[0], b.streams.attachments[0]
        assert (other.data, other.name, other.mimetype) == (one.data, one.name, one.mimetype)
        assert one.data
    report = enhance(source, tmp_path / "out.mp4", preset="ultrafast")
    assert any("attachment" in line and "dropped" in line for line in report.warnings)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_cover_picture(tmp_path: Path, suffix: str) -> None:
    source = DATA / "ae_h264-mjpeg.mp4"
    enhance(source, tmp_path / f"out{suffix}", preset="ultrafast")
    with av.open(str(source)) as a, av.open(str(tmp_path / f"out{suffix}")) as b:
        covers = []
        for container in (a, b):
            cover = next(s for s in container.streams.video if s.disposition & av.stream.Disposition.attached_pic)
            covers.append(next(bytes(p) for p in container.demux(cover) if p.size))
    assert covers[0] == covers[1]


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_rotation_and_mirroring(tmp_path: Path, turn: str, suffix: str) -> None:
    from rtlit.video.probe import display_matrix

    source = make_clip(tmp_path / f"in{suffix}", range(3), matrix=TURNS[turn], time_base=Fraction(1, 1000))
    enhance(source, tmp_path / f"out{suffix}")
    found = []
    for path in (source, tmp_path / f"out{suffix}"):
        with av.open(str(path)) as container:
            found.append(display_matrix(next(container.decode(video=0))))
    assert found[0] == found[1]
    assert found[0] is not None and found[0][:2] == TURNS[turn][:2]


def test_real_phone_rotation(tmp_path: Path) -> None:
    source = DATA / "media3_sample_rotate_and_reflect.mp4"
    enhance(source, tmp_path / "out.mp4", preset="ultrafast")
    with av.open(str(source)) as a, av.open(str(tmp_path / "out.mp4")) as b:
        one, other = next(a.decode(video=0)), next(b.decode(video=0))
        assert bytes(one.side_data["DISPLAYMATRIX"]) == bytes(other.side_data["DISPLAYMATRIX"])
    assert packets(source, "audio") == packets(tmp_path / "out.mp4", "audio")


@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(8, 9)], ids=str)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_pixel_aspect_ratio(tmp_path: Path, aspect: Fraction, suffix: str) -> None:
    source = make_clip(tmp_path / f"in{suffix}", range(3), aspect=aspect)
    enhance(source, tmp_path / f"out{suffix}")
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        assert container.streams.video[0].sample_aspect_ratio == aspect


@pytest.mark.parametrize(
    "tags",
    [
        HDR_TAGS,
        {**HDR_TAGS, "color_trc": 18},
        {"color_primaries": 1, "color_trc": 1, "colorspace": 1, "color_range": 1},
        {"color_primaries": 6, "color_trc": 6, "colorspace": 6, "color_range": 2},
        {},
    ],
    ids=["pq", "hlg", "bt709", "bt601 full", "untagged"],
)
def test_colour_tags(tmp_path: Path, tags: dict[str, int]) -> None:
    pixels = "yuv420p10le" if tags.get("colorspace") == 9 else "yuv420p"
    source = make_clip(tmp_path / "in.mp4", range(3), tags=tags, pixels=pixels)
    report = enhance(source, tmp_path / "out.mp4")
    names = ("color_range", "colorspace", "color_primaries", "color_trc")
    told = []
    for path in (source, tmp_path / "out.mp4"):
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            told.append(([int(getattr(frame, n)) for n in names], frame.format.name.replace("yuvj", "yuv")))
    assert told[0] == told[1]
    assert told[0][1] == pixels and report.warnings == []


@pytest.mark.parametrize("encoder", ["libx265", "libsvtav1"])
def test_hdr10_mastering_metadata_is_carried(tmp_path: Path, encoder: str, capfd: pytest.CaptureFixture[str]) -> None:
    from rtlit.video.probe import side_data

    params = {"x265-params": f"log-level=none:master-display={MASTERING}:max-cll=1000,400", "preset": "ultrafast"}
    options = {**params, "crf": "20"}
    source = make_clip(
        tmp_path / "in.mp4",
        range(5),
        codec="libx265",
        pixels="yuv420p10le",
        tags=HDR_TAGS,
        options=options,
        size=(128, 96),
    )
    report = enhance(source, tmp_path / "out.mp4", codec=encoder)
    assert report.warnings == [] and report.pixel_format == "yuv420p10le"
    found = []
    for path in (source, tmp_path / "out.mp4"):
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            assert int(frame.color_trc) == 16
            data = side_data(frame)
            light = np.frombuffer(data["CONTENT_LIGHT_LEVEL"][:8], np.uint32)
            ratios = np.frombuffer(data["MASTERING_DISPLAY_METADATA"][:80], np.int32).reshape(10, 2)
            found.append(np.concatenate([ratios[:, 0] / ratios[:, 1], light]))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=2e-5)
    assert found[0][-2:].tolist() == [1000, 400]
    assert capfd.readouterr().err == ""  # encoders keep their chatter to themselves


def test_dolby_vision_is_said_to_be_lost(tmp_path: Path) -> None:
    source = DATA / "media3_dolbyVision-hdr.MOV"
    report = enhance(source, tmp_path / "out.MOV", preset="ultrafast")
    assert any("Dolby Vision" in line and "HLG" in line for line in report.warnings)
    assert any("data streams" in line for line in report.warnings)
    assert report.pixel_format == "yuv420p10le"
    with av.open(str(source)) as a, av.open(str(tmp_path / "out.MOV")) as b:
        assert b.streams.video[0].codec_context.codec_tag == "hvc1"
        assert b.streams.video[0].duration == a.streams.video[0].duration  # its edit list cuts the last frame short
        kept = {k: v for k, v in a.metadata.items() if k.startswith("com.apple")}
        assert kept and kept.items() <= b.metadata.items()
    assert shown(tmp_path / "out.MOV") == shown(source)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("tc_testsrc2_444_12bit_hevc.mp4", "hevc", "yuv444p12le"),
        ("tc_testsrc2_odd_height_and_width_vp9.mp4", "vp9", "yuv420p"),
        ("tc_testsrc2_odd_width_mpeg2.mp4", "mpeg2video", "yuv420p"),
        ("tc_testsrc2_12bit_hdr.mp4", "hevc", "yuv420p12le"),
        ("tc_test_non_zero_start.mp4", "h264", "yuv420p"),
        ("ae_SAR-2by3.mp4", "h264", "yuv420p"),
    ],
)
def test_real_clips_keep_codec_size_format_and_times(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    report = enhance(DATA / name, tmp_path / name)
    assert (report.input_codec, report.pixel_format, report.warnings) == (codec, pixels, [])
    assert shown(tmp_path / name) == shown(DATA / name)
    with av.open(str(DATA / name)) as a, av.open(str(tmp_path / name)) as b:
        one, other = a.streams.video[0], b.streams.video[0]
        for field in ("width", "height", "sample_aspect_ratio", "time_base", "start_time", "duration"):
            assert getattr(other, field) == getattr(one, field), field
        assert other.codec_context.pix_fmt == one.codec_context.pix_fmt


def test_second_video_stream_is_copied_and_said(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    small, big = make_clip(tmp_path / "a.mkv"), make_clip(tmp_path / "b.mkv", size=(128, 96))
    with av.open(str(source), "w") as output, av.open(str(small)) as a, av.open(str(big)) as b:
        copies = [output.add_stream_from_template(c.streams.video[0], opaque=True) for c in (a, b)]
        for one, other in zip(a.demux(), b.demux(), strict=False):
            for packet, copy in ((one, copies[0]), (other, copies[1])):
                if packet.size:
                    packet.stream = copy
                    output.mux(packet)
    report = enhance(source, tmp_path / "out.mkv")
    assert (report.width, report.height) == (128, 96)
    assert any("copied as it is" in line for line in report.warnings)
    first, second = ([bytes(p) for p in _demux(path, 0)] for path in (source, tmp_path / "out.mkv"))
    assert first == second


def _demux(path: Path, index: int) -> list[Any]:
    with av.open(str(path)) as container:
        return [p for p in container.demux(container.streams[index]) if p.size]


def test_interlaced_video_stays_marked(tmp_path: Path) -> None:
    flags = av.codec.context.Flags
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as output:
        video = output.add_stream("mpeg2video", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.flags |= flags.interlaced_dct | flags.interlaced_me
        for index in range(5):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = index
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
    marks = []
    enhance(source, tmp_path / "out.mkv")
    for path in (source, tmp_path / "out.mkv"):
        with av.open(str(path)) as container:
            marks.append([frame.interlaced_frame for frame in container.decode(video=0)])
    assert marks[0] == marks[1]
    assert any(marks[0])
