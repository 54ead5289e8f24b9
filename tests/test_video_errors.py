"""Bad input, targets that can't be written, and stopping: one line each, and nothing left behind."""

from __future__ import annotations

import io
import os
import resource
import threading
import time
from pathlib import Path
from typing import Any

import av
import pytest

from rtlit.errors import InputError, OutputError, RtlitError, UsageError
from rtlit.video.belt import Belt, Stopped
from rtlit.video.probe import choose_video, open_input
from rtlit.video.transcode import VideoSettings, enhance_video
from tests import outside
from tests.video_tools import DATA, enhance, make_clip, pictures


def _sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as output:
        audio = output.add_stream("aac", rate=48000)
        output.mux(audio.encode(_silence()))
        output.mux(audio.encode(None))
    return path


def _silence() -> av.AudioFrame:
    import numpy as np

    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
    frame.sample_rate = 48000
    return frame


def _broken(path: Path, name: str) -> Path:
    """A bad input of the named kind."""
    good = make_clip(path / "good.mp4", range(30))
    target = path / "bad.mp4"
    data = good.read_bytes()
    if name == "missing":
        return target
    if name == "directory":
        target.mkdir()
    elif name == "sound only":
        return _sound_only(target)
    elif name == "no frames":
        with av.open(str(target), "w", format="mp4", container_options={"movflags": "empty_moov"}) as output:
            video = output.add_stream("libx264", rate=25)
            video.width, video.height = 64, 48
            output.start_encoding()
    else:
        kinds = {"empty": b"", "text": b"This is no video.\n" * 40, "truncated": data[: len(data) // 2]}
        target.write_bytes(kinds[name])
    return target


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "no such file"),
        ("directory", "is a directory"),
        ("empty", "is empty"),
        ("text", "is not a video"),
        ("truncated", "truncated or damaged"),
        ("sound only", "has no video stream"),
        ("no frames", "holds no video frames|is not a video"),
    ],
)
def test_bad_input(tmp_path: Path, name: str, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    source = _broken(tmp_path, name)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=words) as caught:
        enhance(source, tmp_path / "out.mp4")
    _one_clear_line(caught.value, source)
    assert sorted(tmp_path.iterdir()) == before
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["media3_sample_fragmented_widevine.mp4", "media3_sample_fragmented_uuid.mp4"])
def test_encrypted(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="encrypted") as caught:
        enhance(DATA / name, tmp_path / "out.mp4")
    _one_clear_line(caught.value, DATA / name)
    assert list(tmp_path.iterdir()) == []


def _one_clear_line(error: RtlitError, path: Path) -> None:
    assert str(error).startswith(str(path))
    assert "\n" not in str(error)
    assert error.__cause__ is None


def test_damage_in_the_middle_is_skipped_and_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = make_clip(tmp_path / "in.mkv", range(60), options={"g": "10", "bf": "0"}, sound=True)
    data = bytearray(source.read_bytes())
    for at in range(len(data) * 4 // 10, len(data) * 6 // 10, 997):
        data[at : at + 64] = os.urandom(64)
    damaged = tmp_path / "damaged.mkv"
    damaged.write_bytes(data)
    report = enhance(damaged, tmp_path / "out.mkv")
    assert 20 < report.frames <= 60
    assert any("damaged" in line or "breaks off" in line for line in report.warnings)
    assert len(pictures(tmp_path / "out.mkv")) == report.frames
    assert capfd.readouterr().err == ""


def test_input_that_breaks_off_is_finished(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", range(60))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    report = enhance(cut, tmp_path / "out.mkv")
    assert 5 < report.frames < 55
    assert len(pictures(tmp_path / "out.mkv")) == report.frames


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return make_clip(tmp_path / "source" / "in.mp4", range(30))


def test_target_is_the_input(source: Path) -> None:
    before = source.read_bytes()
    link = source.with_name("link.mp4")
    link.symlink_to(source)
    for target in (source, link):
        with pytest.raises(OutputError, match="is the input itself"):
            enhance(source, target, overwrite=True)
    assert source.read_bytes() == before


def test_target_exists(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists"):
        enhance(source, target)
    assert target.read_bytes() == b"mine"
    enhance(source, target, overwrite=True)
    assert len(pictures(target)) == 30


def test_failed_overwrite_keeps_the_old_file(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_bytes(b"mine")
    with pytest.raises(RtlitError):
        enhance(source, target, overwrite=True, start=100)
    assert target.read_bytes() == b"mine"


@pytest.mark.parametrize("place", ["nowhere/out.mp4", "source/in.mp4/out.mp4", "source"])
def test_target_that_cannot_be_there(source: Path, tmp_path: Path, place: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError) as caught:
        enhance(source, tmp_path / place)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_directory(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    with pytest.raises(OutputError, match="permission denied"):
        enhance(source, folder / "out.mp4")


def test_directory_that_refuses_is_said(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(OutputError, match="permission denied"):
        enhance(source, tmp_path / "out.mp4")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_full_disk(tmp_path: Path, suffix: str) -> None:
    """A limit on the size of files fails like a full disk, with EFBIG in place of ENOSPC."""
    source = make_clip(tmp_path / "in.mkv", range(60), size=(320, 240), options={"qp": "5"})
    before = sorted(tmp_path.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OutputError, match="can't be written") as caught:
            enhance(source, tmp_path / f"out{suffix}", options=(("qp", "5"),))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_reader_of_stdout_that_goes_away(source: Path) -> None:
    class Closed(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def seekable(self) -> bool:
            return False

        def write(self, data: Any) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(OutputError):
        enhance(source, Closed())


def test_unknown_suffix_and_encoder_that_refuses(source: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="can't write a .doc file"):
        enhance(source, tmp_path / "out.doc")
    with pytest.raises(UsageError):
        enhance(source, tmp_path / "out.mp4", preset="warp")
    with pytest.raises(InputError, match="--start"):
        enhance(source, tmp_path / "out.mp4", start=100)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
@pytest.mark.parametrize("where", ["read", "enhance", "progress"])
def test_any_thread_stops_all(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], where: str
) -> None:
    calls = iter(range(1000))

    def fail(*_: Any, **__: Any) -> Any:
        if next(calls) >= 7:
            raise error("by the test")

    settings: dict[str, Any] = {"on_progress": lambda p: fail()} if where == "progress" else {}
    if where == "read":
        monkeypatch.setattr(
            "rtlit.video.reader.Reader._fix_time", _then(fail, "rtlit.video.reader", "Reader", "_fix_time")
        )
    elif where == "enhance":
        monkeypatch.setattr("rtlit.enhancer.Enhancer.enhance_planes", fail)
    monkeypatch.setattr("rtlit.video.transcode._PROGRESS_SECONDS", 0)
    with pytest.raises((error, RtlitError)):
        enhance_video(source, tmp_path / "out.mp4", device="cpu", video=VideoSettings(), **settings)
    deadline = time.monotonic() + 5
    while _pipeline_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _pipeline_threads() == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def _pipeline_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in ("rtlit-read", "rtlit-enhance")]


def _then(first: Any, module: str, holder: str, name: str) -> Any:
    import importlib

    original = getattr(getattr(importlib.import_module(module), holder), name)

    def both(*arguments: Any) -> Any:
        first()
        return original(*arguments)

    return both


def test_belt_is_bounded_and_keeps_order() -> None:
    belt: Belt[int] = Belt(100)
    done = []

    def fill() -> None:
        for item in range(50):
            belt.put(item, 40)
            done.append(item)
        belt.close()

    thread = threading.Thread(target=fill)
    thread.start()
    time.sleep(0.05)
    assert len(done) == 2  # 80 bytes fit, 120 don't
    assert list(belt) == list(range(50))
    thread.join()


def test_belt_lets_a_large_item_through_alone() -> None:
    belt: Belt[str] = Belt(10)
    belt.put("large", 1000)
    belt.close()
    assert list(belt) == ["large"]


def test_belt_carries_errors_and_stops_producers() -> None:
    belt: Belt[int] = Belt(10)
    belt.put(1, 10)
    belt.close(ValueError("x"))
    with pytest.raises(ValueError):
        list(belt)
    full: Belt[int] = Belt(10)
    full.put(1, 10)
    caught: list[BaseException] = []

    def push() -> None:
        try:
            full.put(2, 10)
        except Stopped as error:
            caught.append(error)

    thread = threading.Thread(target=push)
    thread.start()
    full.stop()
    thread.join(5)
    assert len(caught) == 1


def test_ffmpegs_own_sentence_is_shown(tmp_path: Path) -> None:
    """As FFmpeg 8's mov demuxer and libx264 wrapper log them; nothing is heard of them afterwards."""
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(b"\0\0\0\x18ftypisom\0\0\0\0isomisom" + b"\0\0\0\x40mdat" + bytes(56))
    with pytest.raises(InputError, match=r"damaged beyond reading \(moov atom not found \(Invalid data"):
        open_input(cut)
    assert av.logging.get_level() is None


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    picture = ("-f", "lavfi", "-i", "testsrc2=s=64x48:d=0.1:r=10")
    song = outside.make(
        tmp_path / "song.m4a", *outside.SOUND, *picture, "-map", 0, "-map", 1, "-t", "0.1", "-c:v", "mjpeg",
        "-disposition:v", "attached_pic",
    )  # fmt: skip
    words = r"has no video stream but a cover picture \(it holds audio\)$"
    with open_input(song) as container, pytest.raises(InputError, match=words):
        choose_video(container, "song.m4a")


def test_location_stays_beside_a_cover(tmp_path: Path) -> None:
    picture = ("-f", "lavfi", "-i", "testsrc2=s=64x48:d=0.2:r=10")
    source = outside.make(
        tmp_path / "in.mp4", *picture, *picture, "-map", 0, "-map", 1, "-c:v:0", "libx264", "-c:v:1", "mjpeg",
        "-frames:v:1", 1, "-disposition:v:1", "attached_pic", "-metadata", "location=+48.8577+002.2950/",
    )  # fmt: skip
    told: list[str] = []
    enhance_video(source, tmp_path / "out.mp4", strength=0.0, threads=1, on_warning=told.append)
    assert not [line for line in told if "lost" in line]
    tags = outside.ffmpeg("-i", tmp_path / "out.mp4", "-f", "ffmetadata", "-").decode()
    assert "location=+48.8577+002.2950/" in tags
    assert len(outside.frames(tmp_path / "out.mp4", "v:1")) == 1


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"preset": "nope"}, "libx264 doesn't start with crf=18 preset=nope"),
        ({"options": (("crf", "abc"),)}, "crf=abc .Error setting option crf to value abc"),  # FFmpeg's own sentence
        ({"codec": "ffv1", "crf": 3}, "--crf: ffv1 has no constant quality"),
    ],
)
def test_settings_that_the_encoder_refuses(asked: dict[str, Any], words: str, tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mkv", range(3))
    with pytest.raises(UsageError, match=words):
        enhance(source, tmp_path / "out.mkv", **asked)
    assert os.listdir(tmp_path) == ["in.mkv"]
