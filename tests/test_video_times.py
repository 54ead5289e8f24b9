"""When frames and sound are shown: cuts, wraps, jumps, truncated files; by the measure of another FFmpeg."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import pytest
from av.format import Flags

from rtlit.errors import InputError
from rtlit.video.clock import WRAP, Clock
from tests import outside
from tests.outside import PICTURE, SOUND, Unit, ffmpeg, frames, make, sound
from tests.video_tools import enhance

FRAME = Fraction(1, 25)
SMALL = ("-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=4")
X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "50", "-pix_fmt", "yuv420p")
MS = Fraction(1, 1000)
HALF_MS = Fraction(1, 2000)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes clips of four seconds, each once: clips("name.suffix", *options)."""
    folder, made = tmp_path_factory.mktemp("clips"), dict[str, Path]()

    def clip(name: str, *options: str, inputs: tuple[str, ...] = (*SMALL, *SOUND)) -> Path:
        if name not in made:
            made[name] = make(folder / name, *inputs, *options)
        return made[name]

    return clip


def steps(units: list[Unit]) -> set[Fraction]:
    """The differences of successive times, to the millisecond."""
    return {round((b.at - a.at) / MS) * MS for a, b in zip(units, units[1:], strict=False)}


def video_seconds(path: Path) -> Fraction:
    """How long the video track is, as its container says."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.duration is not None and stream.time_base is not None
        return stream.duration * stream.time_base


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".ts", ".flv"])
@pytest.mark.parametrize("with_sound", [True, False], ids=["sound", "silent"])
def test_a_cut_ends_one_frame_after_its_last(tmp_path: Path, clips: Any, suffix: str, with_sound: bool) -> None:
    inputs = (*SMALL, *SOUND) if with_sound else SMALL
    source = clips(f"cut-{with_sound}.mp4", *X264, *(("-c:a", "aac") if with_sound else ()), inputs=inputs)
    target = tmp_path / f"out{suffix}"
    enhance(source, target, start=2, duration=1, preset="ultrafast")
    shown = frames(target)
    begin = shown[0].at
    assert [round((unit.at - begin) / MS) for unit in shown] == [40 * i for i in range(25)]
    packets = sorted(outside.packets(target), key=lambda unit: unit.at)
    assert abs(packets[-1].at + packets[-1].length - begin - 1) <= MS
    if suffix in (".mp4", ".mov"):
        assert begin == 0 and video_seconds(target) == 1
    with av.open(str(target)) as container:
        assert container.duration is not None
        assert container.duration / 1e6 < 1.06  # a frame of AAC more than the picture


CUTS = {
    "h264.ts": (*X264, "-c:a", "aac"),
    "h264.m2ts": (*X264, "-c:a", "ac3"),
    "hevc.ts": ("-c:v", "libx265", "-g", "50", "-x265-params", "log-level=none", "-c:a", "aac"),
    "mpeg2.ts": ("-c:v", "mpeg2video", "-bf", "2", "-g", "50", "-c:a", "mp2"),
    "mpeg2.mpg": ("-c:v", "mpeg2video", "-bf", "2", "-g", "50", "-c:a", "mp2"),
    "refresh.ts": ("-c:v", "libx264", "-x264-params", "intra-refresh=1:keyint=25", "-c:a", "aac"),
    "open.mkv": ("-c:v", "libx264", "-bf", "3", "-g", "25", "-x264-params", "open-gop=1", "-c:a", "aac"),
    "long.mp4": ("-c:v", "libx264", "-bf", "3", "-g", "300", "-c:a", "aac"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-g", "30", "-deadline", "realtime", "-c:a", "libopus"),
    "theora.ogv": ("-c:v", "libtheora", "-g", "40", "-c:a", "libvorbis"),
    "wmv2.wmv": ("-c:v", "wmv2", "-g", "40", "-c:a", "wmav2"),
}


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("start", [1.5, 1.98, 3.2])
def test_cuts_are_exact_to_a_frame(tmp_path: Path, clips: Any, name: str, start: float) -> None:
    """The very pictures that the whole input has there, at strength 0 without loss."""
    source = clips(name, *CUTS[name])
    whole = frames(source)
    begin = whole[0].at + Fraction(str(start))
    wanted = [unit for unit in whole if -HALF_MS <= unit.at - begin < Fraction(3, 5) - HALF_MS]
    assert len(wanted) in (14, 15)
    enhance(source, tmp_path / "out.mkv", codec="ffv1", start=start, duration=0.6)
    got = frames(tmp_path / "out.mkv")
    assert [unit.check for unit in got] == [unit.check for unit in wanted]
    assert got[0].at < FRAME and steps(got) == {FRAME}


@pytest.mark.parametrize("offset", ["0", "50000", "95441.5"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_transport_streams_begin_at_0_elsewhere(tmp_path: Path, clips: Any, offset: str, suffix: str) -> None:
    """Whatever they begin at, over the wrap of 33 bits too; sound stays as far from the picture."""
    source = clips(f"offset-{offset}.ts", *X264, "-c:a", "aac", "-output_ts_offset", offset)
    target = tmp_path / f"out{suffix}"
    report = enhance(source, target, preset="ultrafast")
    before, after = frames(source), frames(target)
    heard, hears = outside.packets(source, "a:0"), outside.packets(target, "a:0")
    assert len(after) == 100 and steps(after) == {FRAME}
    assert min(after[0].at, hears[0].at) == 0
    apart = before[0].at - heard[0].at
    assert abs((after[0].at - hears[0].at) - apart) <= (MS if suffix == ".mkv" else Fraction(1, 10_000))
    adts = 7  # bytes of header that a packet of AAC has in transport streams alone
    assert [unit.size for unit in hears] == [unit.size - adts for unit in heard]
    assert not [line for line in report.warnings if "rounded" not in line]


@pytest.mark.parametrize("offset", ["0", "50000", "95441.5"])
def test_transport_streams_keep_their_clock(tmp_path: Path, clips: Any, offset: str) -> None:
    source = clips(f"offset-{offset}.ts", *X264, "-c:a", "aac", "-output_ts_offset", offset)
    enhance(source, tmp_path / "out.ts", preset="ultrafast")
    assert [unit.at for unit in frames(tmp_path / "out.ts")] == [unit.at for unit in frames(source)]
    assert [unit.at for unit in outside.packets(tmp_path / "out.ts", "a:0")] == [
        unit.at for unit in outside.packets(source, "a:0")
    ]


def test_a_late_start_of_hours_is_nothing_to_wait_for(tmp_path: Path, clips: Any) -> None:
    source = clips("late.mkv", *X264, "-c:a", "aac", "-output_ts_offset", "50000")
    report = enhance(source, tmp_path / "out.mp4", preset="ultrafast")
    assert frames(tmp_path / "out.mp4")[0].at < Fraction(1, 10)
    assert any("begin at 0" in line for line in report.warnings)


@pytest.mark.parametrize("second", ["0", "30", "1000"], ids=["back", "ahead", "far"])
@pytest.mark.parametrize("tone", ["3.9", "4.1"])
def test_joined_recordings_go_on_a_frame_later(tmp_path: Path, clips: Any, second: str, tone: str) -> None:
    """Two transport streams in one file; the sound of the first ends before or behind its picture."""
    inputs = (*SMALL, "-f", "lavfi", "-i", f"sine=d={tone}")
    parts = [
        clips(f"part-{tone}-{offset}.ts", *X264, "-c:a", "aac", "-output_ts_offset", offset, inputs=inputs)
        for offset in ("0", second)
    ]
    source = tmp_path / "in.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    report = enhance(source, tmp_path / "out.mp4", preset="ultrafast")
    after = frames(tmp_path / "out.mp4")
    assert len(after) == 200 and steps(after) == {FRAME}
    assert [line for line in report.warnings if "jump" in line] == [
        f"timestamps jump once, at {float(after[100].at):.3f} s; each gap is closed to one frame"
    ]
    # The second part's sound is as far from its picture as it was there.
    apart = frames(parts[1])[0].at - outside.packets(parts[1], "a:0")[0].at
    heard = [unit.at for unit in outside.packets(tmp_path / "out.mp4", "a:0")]
    assert min(abs(after[100].at - at - apart) for at in heard) < Fraction(1, 40)


def test_a_wrap_in_the_middle_of_joined_parts(tmp_path: Path, clips: Any) -> None:
    """Behind a first part at 0, one whose own time wraps: still no hole and no loss."""
    parts = [
        clips("part-3.9-0.ts", *X264, "-c:a", "aac", inputs=(*SMALL, "-f", "lavfi", "-i", "sine=d=3.9")),
        clips("offset-95441.5.ts", *X264, "-c:a", "aac", "-output_ts_offset", "95441.5"),
    ]
    source = tmp_path / "in.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    enhance(source, tmp_path / "out.mkv", preset="ultrafast")
    after = frames(tmp_path / "out.mkv")
    assert len(after) == 200 and steps(after) == {FRAME}
    assert after[-1].at < 9 < WRAP


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("b.avi", X264),
        ("b4.avi", ("-c:v", "mpeg4", "-bf", "2")),
        ("b2.avi", ("-c:v", "mpeg2video", "-bf", "2")),
    ],
)
def test_b_frames_in_avi_are_shown_evenly(tmp_path: Path, clips: Any, name: str, options: tuple[str, ...]) -> None:
    source = clips(name, *options, inputs=SMALL)
    report = enhance(source, tmp_path / "out.mkv", codec="ffv1")
    assert [unit.check for unit in frames(tmp_path / "out.mkv")] == [unit.check for unit in frames(source)]
    assert [unit.at for unit in frames(tmp_path / "out.mkv")] == [unit.at for unit in frames(source)]
    assert steps(frames(tmp_path / "out.mkv")) == {FRAME}
    assert not report.warnings


TRUNCATED = {
    "whole.mp4": (*X264, "-c:a", "aac", "-movflags", "faststart"),
    "fragments.mp4": (*X264, "-g", "25", "-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"),
    "whole.mov": ("-c:v", "prores_ks", "-movflags", "faststart", "-c:a", "pcm_s16le"),
    "whole.mkv": (*X264, "-c:a", "aac"),
    "whole.webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-g", "30", "-c:a", "libopus"),
    "whole.avi": ("-c:v", "mjpeg", "-c:a", "pcm_s16le"),
    "whole.flv": (*X264, "-c:a", "aac"),
    "whole.wmv": ("-c:v", "wmv2", "-c:a", "wmav2"),
}


@pytest.mark.parametrize("name", TRUNCATED)
def test_a_truncated_input_ends_with_its_last_frame_and_that_is_said(tmp_path: Path, clips: Any, name: str) -> None:
    whole = clips(name, *TRUNCATED[name])
    source = tmp_path / f"in{whole.suffix}"
    data = whole.read_bytes()
    source.write_bytes(data[: len(data) * 6 // 10])
    target = tmp_path / "out.mp4"
    report = enhance(source, target, codec="libx264", preset="ultrafast")
    shown = frames(target)
    assert 10 < len(shown) < 90
    with av.open(str(whole)) as container:
        whole_times = [frame.time for frame in container.decode(video=0)]
    if name != "fragments.mp4":  # the demuxer skips what is interleaved with what is missing
        assert steps(shown[:-4]) <= {FRAME, Fraction(39, 1000), Fraction(41, 1000)}  # at the end B-frames may lack
        assert len(shown) < len(whole_times)
    assert abs(shown[-1].at + FRAME - (shown[0].at + video_seconds(target))) <= 2 * MS
    said = [line for line in report.warnings if "breaks off early" in line]
    assert len(said) == 1 and "are missing" in said[0]
    if name == "fragments.mp4":
        return  # it promises what its fragments do
    missing = float(said[0].split("the last ")[1].split(" s")[0])
    assert missing == pytest.approx(4 - float(shown[-1].at - shown[0].at + FRAME), abs=0.1)


# Containers that don't tell their length.
ENDLESS = {
    "end.gif": ("-an",),
    "end.ogv": ("-c:v", "libtheora", "-c:a", "libvorbis"),
    "end.ts": (*X264, "-c:a", "aac"),
    "end.m2ts": (*X264, "-c:a", "ac3", "-mpegts_m2ts_mode", "1"),
    "end.mpg": ("-c:v", "mpeg2video", "-c:a", "mp2"),
    "end.nut": ("-c:v", "mpeg4", "-c:a", "mp2"),
    "end.y4m": ("-an", "-pix_fmt", "yuv420p"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_end_that_is_cut_off_is_said_where_no_length_is_told(tmp_path: Path, clips: Any, name: str) -> None:
    whole = clips(name, *ENDLESS[name])
    source = tmp_path / f"in{whole.suffix}"
    data = whole.read_bytes()
    source.write_bytes(data[: len(data) * 6 // 10 // 192 * 192 + 100])
    report = enhance(source, tmp_path / "out.mkv", codec="libx264", preset="ultrafast")
    assert report.frames < 90
    assert sum("its end is cut off" in line for line in report.warnings) == 1


def test_a_last_packet_that_is_cut_in_two(tmp_path: Path, clips: Any) -> None:
    """One frame less than was promised, which may be rounding: that the packet isn't whole tells."""
    source = tmp_path / "in.mp4"
    data = clips("silent.mp4", *X264, "-movflags", "faststart", inputs=SMALL).read_bytes()
    source.write_bytes(data[:-10])
    report = enhance(source, tmp_path / "out.mp4", preset="ultrafast")
    assert report.frames == 99
    assert any("its end is cut off" in line for line in report.warnings)


@pytest.mark.parametrize("name", {**TRUNCATED, **ENDLESS})
def test_a_whole_input_is_not_called_truncated(tmp_path: Path, clips: Any, name: str) -> None:
    source = clips(name, *{**TRUNCATED, **ENDLESS}[name])
    report = enhance(source, tmp_path / "out.mkv", codec="libx264", preset="ultrafast")
    assert report.frames == 100
    assert not [line for line in report.warnings if "breaks off" in line or "missing" in line]


@pytest.mark.parametrize(("rate", "said"), [("25", False), ("30000/1001", True)])
def test_rounded_times_are_said_only_where_one_moves(tmp_path: Path, rate: str, said: bool) -> None:
    source = make(tmp_path / "in.mp4", "-f", "lavfi", "-i", f"testsrc2=s=64x48:r={rate}:d=1", *X264)
    report = enhance(source, tmp_path / "out.mkv", preset="ultrafast")
    assert any("rounded to milliseconds" in line for line in report.warnings) == said


def test_the_whole_picture_of_the_issue(tmp_path: Path) -> None:
    """At its real size: half a second from 1.5 s of a transport stream with sound, into MP4."""
    source = make(tmp_path / "in.ts", *PICTURE, *SOUND, *X264, "-c:a", "aac")
    enhance(source, tmp_path / "out.mp4", start=1.5, duration=0.5, preset="ultrafast")
    assert len(frames(tmp_path / "out.mp4")) == 12
    heard = sound(tmp_path / "out.mp4")
    assert heard[-1].at + heard[-1].length <= Fraction(11, 20)
    assert ffmpeg("-i", tmp_path / "out.mp4", "-f", "null", "-") == b""


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_start_between_two_frames_loses_none(tmp_path: Path, clips: Any, suffix: str) -> None:
    """Even steps of AVI lie where the frames do; the last frame is shown as long as the others."""
    target = tmp_path / f"out{suffix}"
    report = enhance(clips("between.mp4", *X264, inputs=SMALL), target, start=1.5, duration=1, preset="ultrafast")
    shown = outside.packets(target)
    assert len(shown) == 25 and sum(unit.length for unit in shown) == 1
    assert steps(sorted(shown, key=lambda unit: unit.at)) == {FRAME}
    assert not report.warnings


@pytest.mark.parametrize("name", ["h264.mkv", "vp9.webm", "wmv2.wmv", "h264.nut"])
def test_a_part_of_a_pipe(tmp_path: Path, clips: Any, name: str) -> None:
    """An index isn't sought in what can't be gone back in."""
    source = clips(name, *(CUTS.get(name) or (*X264, "-c:a", "aac")))
    wanted = [unit.check for unit in frames(source)[50:75]]
    for named in (False, True):
        with os.fdopen(_poured(source), "rb") as pipe:
            place = Path(f"/dev/fd/{pipe.fileno()}") if named else pipe
            enhance(place, tmp_path / "out.mkv", codec="ffv1", start=2, duration=1, overwrite=True)
        assert [unit.check for unit in frames(tmp_path / "out.mkv")] == wanted


def _poured(path: Path) -> int:
    """A pipe that a file's bytes come out of."""
    end, begin = os.pipe()

    def pour() -> None:
        with os.fdopen(begin, "wb") as pipe, suppress(BrokenPipeError):
            pipe.write(path.read_bytes())

    threading.Thread(target=pour, daemon=True).start()
    return end


def test_a_part_without_a_frame(tmp_path: Path, clips: Any) -> None:
    with pytest.raises(InputError, match="no frame that begins in the 0.03 s from 1.53 s on"):
        enhance(clips("between.mp4", *X264, inputs=SMALL), tmp_path / "out.mp4", start=1.53, duration=0.03)


def test_a_join_with_fewer_b_frames(tmp_path: Path, clips: Any) -> None:
    """What comes behind the jump begins when the last picture before it ends, not as early as it is decoded."""
    plain = clips("plain.ts", *X264, "-bf", "0", inputs=SMALL)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(clips("b-frames.ts", *X264, inputs=SMALL).read_bytes() + plain.read_bytes())
    report = enhance(joined, tmp_path / "out.mp4", preset="ultrafast")
    assert len(frames(tmp_path / "out.mp4")) == 200 and steps(frames(tmp_path / "out.mp4")) == {FRAME}
    assert [line.split(" at ")[0] for line in report.warnings] == ["timestamps jump once,"]


def test_a_join_of_streams_with_other_numbers(tmp_path: Path, clips: Any) -> None:
    """They go on as the same streams where the program is the same; else they are left out, and that is said."""
    first = clips("numbered.ts", *X264, inputs=SMALL)
    for options, count, said in (("-mpegts_start_pid", 200, False), ("-mpegts_pmt_start_pid", 100, True)):
        second = make(tmp_path / "second.ts", "-i", first, "-c", "copy", options, "0x400", "-mpegts_start_pid", "0x300")
        joined = tmp_path / "joined.ts"
        joined.write_bytes(first.read_bytes() + second.read_bytes())
        report = enhance(joined, tmp_path / "out.mp4", preset="ultrafast", overwrite=True)
        assert report.frames == count
        assert any("begin later in the input are left out" in line for line in report.warnings) == said


def test_truncated_fragments(tmp_path: Path, clips: Any) -> None:
    """The sound of the last fragment lies behind its pictures, some of which are decoded before others."""
    options = ("-movflags", "frag_keyframe+empty_moov", "-c:a", "aac")
    whole = clips("fragments.mp4", *X264, *options).read_bytes()
    source = tmp_path / "in.mp4"
    source.write_bytes(whole[: len(whole) * 9 // 10])
    report = enhance(source, tmp_path / "out.mkv", preset="ultrafast")
    (line,) = [line for line in report.warnings if "breaks off early" in line]
    pictures, tone = frames(tmp_path / "out.mkv"), sound(tmp_path / "out.mkv")
    lacks = float(line.split("audio stream 1 lacks its last ")[1].split()[0])
    assert lacks == pytest.approx(float(4 - tone[-1].at - tone[-1].length), abs=0.07)
    assert "of 4.00 s are missing" in line and pictures[-1].at + pictures[-1].length < 4


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("in.m1v", ("-c:v", "mpeg1video")),
        ("b.m1v", ("-c:v", "mpeg1video", "-bf", "2")),
        ("in.m2v", ("-c:v", "mpeg2video", "-bf", "2")),
        ("in.h264", X264),
        ("in.hevc", ("-c:v", "libx265", "-x265-params", "log-level=none")),
    ],
)
def test_elementary_streams_have_even_steps(tmp_path: Path, name: str, options: tuple[str, ...]) -> None:
    """Each picture once, at the rate that the codec tells."""
    source = make(tmp_path / name, "-f", "lavfi", "-i", "testsrc2=s=96x64:r=30000/1001:d=1", *options)
    report = enhance(source, tmp_path / "out.mkv", codec="ffv1")
    shown = frames(tmp_path / "out.mkv")
    assert [unit.check for unit in shown] == [unit.check for unit in frames(source)]
    assert all(abs(unit.at - index * Fraction(1001, 30000)) <= MS for index, unit in enumerate(shown))
    assert all("rounded" in line for line in report.warnings)


def test_a_subtitle_ahead_of_the_jump_it_belongs_behind() -> None:
    """As FFmpeg's muxer orders the first packets of a recording with DVB subtitles, here joined to another of 4 s."""
    kinds = [SimpleNamespace(type="video"), SimpleNamespace(type="subtitle")]
    container = SimpleNamespace(format=SimpleNamespace(flags=Flags.ts_discont))
    clock = Clock(cast("Any", container), cast("Any", kinds[0]), Fraction(0))
    placed = []
    for kind, time in [(1, 0), *((0, i) for i in range(100)), (1, 0), *((0, i) for i in range(100))]:
        times = {"pts": time, "dts": time, "duration": 1, "time_base": FRAME}
        packet = SimpleNamespace(stream=kinds[kind], stream_index=kind, **times)
        placed += [(one.stream_index, one.pts) for one in clock.put(cast("Any", packet))]
    assert [time for kind, time in placed if kind == 0] == list(range(200))
    assert [time for kind, time in placed if kind == 1] == [0, 100]
