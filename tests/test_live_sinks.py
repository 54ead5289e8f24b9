"""What takes the live picture: recorder, snapshots and virtual camera."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import pyvips
from video_tools import dim_frame, kinds, shown

from rtlit.avframe import color_of, planes_of
from rtlit.errors import DeviceError, OutputError, RtlitError, UsageError
from rtlit.live.microphone import Microphone, open_microphone
from rtlit.live.pipeline import LiveFrame
from rtlit.live.recorder import Recorder
from rtlit.live.recording import Recording
from rtlit.live.snapshot import save_snapshot
from rtlit.live.virtual_camera import VirtualCamera

BT601, BT709, LIMITED, FULL = 6, 1, 1, 2
BEGIN = 5000.0  # where the clock stands at the first frame
UNEVEN = (0, 0.033, 0.041, 0.3, 0.3005, 1.0, 1.033, 1.066, 1.1, 2.5)


def frame(index: int, size: tuple[int, int] = (64, 48), matrix: int = BT709, levels: int = LIMITED) -> av.VideoFrame:
    made = dim_frame(index, *size, "yuv420p")
    made.colorspace, made.color_range = matrix, levels
    return made


def live(picture: av.VideoFrame, captured: float, number: int = 1) -> LiveFrame:
    return LiveFrame(picture, picture, captured, captured + 0.01, number)


def record(recorder: Recorder, frames: list[av.VideoFrame], times: Any) -> None:
    for index, (picture, at) in enumerate(zip(frames, times, strict=True)):
        recorder.send(live(picture, BEGIN + at, index + 1))


def psnr(one: av.VideoFrame, other: av.VideoFrame) -> float:
    pairs = zip(planes_of(one), planes_of(other), strict=True)
    square = np.mean(np.concatenate([((a.astype(float) - b) ** 2).ravel() for a, b in pairs]))
    return float(10 * np.log10(255**2 / max(square, 1e-9)))


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("name", "size", "matrix", "levels"),
    [
        ("a.mp4", (1280, 720), BT709, LIMITED),
        ("a.mkv", (640, 480), BT601, FULL),
        ("a.mov", (322, 182), BT601, LIMITED),
        ("odd.mp4", (161, 121), BT709, FULL),
        ("odd.mkv", (853, 480), BT601, LIMITED),
    ],
)
def test_a_recording_holds_the_frames_when_they_were_captured(
    tmp_path: Path, name: str, size: tuple[int, int], matrix: int, levels: int
) -> None:
    frames = [frame(index, size, matrix, levels) for index in range(len(UNEVEN))]
    lines: list[str] = []
    recorder = Recorder(tmp_path / name, on_warning=lines.append)
    record(recorder, frames, UNEVEN)
    report = recorder.close()
    assert (report.frames, report.dropped, report.error, lines) == (len(UNEVEN), 0, "", [])
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [float(at) for at in shown(tmp_path / name)] == pytest.approx(UNEVEN, abs=0.0006)
    assert report.seconds == pytest.approx(
        UNEVEN[-1] + 1.4, abs=0.002
    )  # the last frame stays as long as the one before
    with av.open(str(tmp_path / name)) as container:
        assert container.duration == pytest.approx(1e6 * report.seconds, abs=2000)
        for sent, got in zip(frames, container.decode(video=0), strict=True):
            assert (got.width, got.height, int(got.colorspace), int(got.color_range)) == (*size, matrix, levels)
            assert (
                psnr(sent, got.reformat(format="yuv420p") if got.format.name != "yuv420p" else got) > 35
            )  # noise, at crf 20


def test_it_goes_by_another_name_and_can_be_read_until_it_is_whole(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.mp4")
    part = tmp_path / "a.mp4.partial"
    record(recorder, [frame(index, (320, 240)) for index in range(50)], np.arange(50) / 5)
    until(lambda: part.exists() and _readable(part, tmp_path / "crashed.mp4") >= 10)  # a fragment, of two seconds
    assert not (tmp_path / "a.mp4").exists()
    assert recorder.recording and recorder.seconds > 2
    recorder.close()
    assert not part.exists() and len(shown(tmp_path / "a.mp4")) == 50
    assert not recorder.recording


def _readable(part: Path, copy: Path) -> int:
    """Frames that can be read of a file as it lies there now, perhaps in the middle of a write."""
    shutil.copy(part, copy)
    frames = 0
    with suppress(av.error.FFmpegError), av.open(str(copy)) as container:
        for _ in container.decode(video=0):
            frames += 1
    return frames


def test_what_a_crash_left_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "a.mkv.partial").write_bytes(b"all that is left")
    recorder = Recorder(tmp_path / "a.mkv")
    record(recorder, [frame(0)], [0])
    assert recorder.close().frames == 1
    assert (tmp_path / "a.mkv.partial").read_bytes() == b"all that is left"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mkv", "a.mkv.partial"]


def test_an_encoder_that_is_behind_drops_frames_and_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, gate = threading.Event(), threading.Event()
    add = Recording.add_picture

    def slow(self: Recording, picture: av.VideoFrame, captured: float) -> bool:
        entered.set()
        assert gate.wait(20)
        return add(self, picture, captured)

    monkeypatch.setattr(Recording, "add_picture", slow)
    lines: list[str] = []
    recorder = Recorder(tmp_path / "a.mp4", on_warning=lines.append)
    frames = [frame(index) for index in range(100)]
    record(recorder, frames[:1], [0])
    assert entered.wait(20)
    record(recorder, frames[1:], np.arange(1, 100) / 30)  # returns though nothing is encoded
    gate.set()
    report = recorder.close()
    assert 0 < report.frames < 100 and report.frames + report.dropped == 100
    assert len(shown(report.path)) == report.frames
    assert lines == [f"{tmp_path / 'a.mp4'}: {report.dropped} frames were dropped, for the encoder couldn't keep up"]


def test_a_frame_that_is_not_newer_is_dropped(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.mp4")
    record(recorder, [frame(index) for index in range(4)], [0, 0.1, 0.1, 0.05])
    report = recorder.close()
    assert (report.frames, report.dropped) == (2, 2)
    assert [float(at) for at in shown(report.path)] == pytest.approx([0, 0.1])


def test_what_it_refuses_to_begin(tmp_path: Path) -> None:
    there = tmp_path / "there.mp4"
    there.write_bytes(b"mine")
    with pytest.raises(OutputError, match="there.mp4: exists"):
        Recorder(there)
    assert there.read_bytes() == b"mine"
    with pytest.raises(OutputError, match="no directory"):
        Recorder(tmp_path / "missing" / "a.mp4")
    with pytest.raises(UsageError, match=r"a\.webm: can't be recorded to; name a file in \.mp4"):
        Recorder(tmp_path / "a.webm")
    with pytest.raises(UsageError, match="no such encoder"):
        Recorder(tmp_path / "a.mp4", codec="libx266")
    assert [path.name for path in tmp_path.iterdir()] == ["there.mp4"]
    recorder = Recorder(there, overwrite=True)
    record(recorder, [frame(0)], [0])
    recorder.close()
    assert len(shown(there)) == 1


def test_another_codec(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.mkv", codec="ffv1")
    sent = frame(0)
    record(recorder, [sent], [0])
    report = recorder.close()
    assert kinds(report.path) == [("video", "ffv1")]
    with av.open(str(report.path)) as container:
        assert psnr(sent, next(container.decode(video=0))) > 100  # lossless


def test_a_new_size_begins_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "a-2.mp4").write_bytes(b"somebody's")
    recorder = Recorder(tmp_path / "a.mp4")
    sizes = [(64, 48)] * 3 + [(48, 64)] * 2 + [(64, 48)]
    record(recorder, [frame(index, size) for index, size in enumerate(sizes)], np.arange(6) / 10)
    report = recorder.close()
    assert [path.name for path in report.paths] == ["a.mp4", "a-2-2.mp4", "a-3.mp4"]
    assert (tmp_path / "a-2.mp4").read_bytes() == b"somebody's"
    assert [len(shown(path)) for path in report.paths] == [3, 2, 1]
    assert [shown(path)[0] for path in report.paths] == [0, 0, 0]
    assert (report.frames, report.path) == (6, tmp_path / "a.mp4")


def test_no_frame_no_file(tmp_path: Path) -> None:
    lines: list[str] = []
    recorder = Recorder(tmp_path / "a.mp4", on_warning=lines.append)
    report = recorder.close()
    assert recorder.close() == report and report.frames == 0 and report.paths == ()
    assert lines == [f"{tmp_path / 'a.mp4'}: nothing was recorded, for no frame came"]
    assert not list(tmp_path.iterdir())
    recorder.send(live(frame(0), BEGIN))  # too late, and no matter
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_full_disk_ends_it_and_what_is_whole_is_kept(tmp_path: Path, name: str) -> None:
    resource = pytest.importorskip("resource", reason="limits of POSIX stand in for a full disk")
    lines: list[str] = []
    recorder = Recorder(tmp_path / name, on_warning=lines.append)
    frames = [frame(index, (320, 240)) for index in range(60)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, hard))
    try:
        for index in range(300):
            recorder.send(live(frames[index % 60], BEGIN + index / 10))
            if not recorder.recording:
                break
            time.sleep(0.005)
        report = recorder.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert report.error == f"{tmp_path / name}: can't be written: File too large"
    assert lines == [f"recording stopped: {report.error}; its first {report.seconds:.1f} s are kept"]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert 20 <= len(shown(tmp_path / name)) == report.frames
    assert report.seconds == pytest.approx(report.frames / 10, abs=0.2)


def test_two_recorders_of_the_same_frames(tmp_path: Path) -> None:
    frames = [frame(index) for index in range(4)]
    first, second = Recorder(tmp_path / "1.mp4"), Recorder(tmp_path / "2.mp4")
    record(first, frames, [0, 0.1, 0.2, 0.3])
    record(second, frames[1:], [0.1, 0.2, 0.3])
    assert [float(at) for at in shown(first.close().path)] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [float(at) for at in shown(second.close().path)] == pytest.approx([0, 0.1, 0.2])
    assert all(each.pts is None for each in frames)  # which are read only


def tone(name: str) -> Any:
    """A microphone that hears 440 Hz at real-time pace."""
    return av.open(f"sine=frequency=440:sample_rate=44100:{name},arealtime", format="lavfi")


def heard(path: Path) -> tuple[float, Any]:
    """(when the sound begins, samples at 48 kHz) of a recording."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    assert {each.sample_rate for each in frames} == {48000}
    assert frames[0].pts is not None and frames[0].time_base is not None
    return float(frames[0].pts * frames[0].time_base), np.concatenate([each.to_ndarray()[0] for each in frames])


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_sound_of_a_microphone(tmp_path: Path, name: str) -> None:
    recorder = Recorder(tmp_path / name, microphone="duration=60", open_microphone=tone)
    assert recorder.ready.wait(20)
    begin = time.monotonic()
    until(lambda: _sent(recorder, time.monotonic()) > begin + 1.0)
    report = recorder.close()
    assert kinds(report.path) == [("video", "h264"), ("audio", "aac")]
    start, samples = heard(report.path)
    assert start == pytest.approx(0, abs=0.001)
    assert 0.3 < len(samples) / 48000 < report.seconds + 0.2
    middle = samples[9600:19200]
    peak = np.abs(np.fft.rfft(middle * np.hanning(9600))).argmax() * 5  # bins of 5 Hz
    assert peak == 440 and np.abs(middle).max() > 0.05


def _sent(recorder: Recorder, now: float) -> float:
    recorder.send(live(frame(0), now))
    time.sleep(0.02)
    return now


def test_no_microphone_is_a_warning(tmp_path: Path) -> None:
    lines: list[str] = []
    recorder = Recorder(tmp_path / "a.mp4", microphone="no such microphone", on_warning=lines.append)
    assert recorder.ready.wait(20)
    record(recorder, [frame(0)], [0])
    assert kinds(recorder.close().path) == [("video", "h264")]
    (line,) = lines
    assert line.startswith("microphone 'no such microphone': can't be opened (") and "the picture alone" in line
    assert "\n" not in line
    with pytest.raises(DeviceError):
        open_microphone("no such microphone")


def test_a_microphone_that_is_unplugged(tmp_path: Path) -> None:
    lines: list[str] = []
    recorder = Recorder(tmp_path / "a.mp4", microphone="duration=0.2", open_microphone=tone, on_warning=lines.append)
    assert recorder.ready.wait(20)
    now = time.monotonic()
    recorder.send(live(frame(0), now))
    until(lambda: lines)
    recorder.send(live(frame(1), now + 3))
    report = recorder.close()
    assert lines == ["no more sound: it ended"] and report.frames == 2
    assert len(heard(report.path)[1]) > 0


class Drifting:
    """A container whose microphone gives clicks of its own clock, `rate` samples a second of the system's, late and in
    bursts; `clock` is the system's clock meanwhile."""

    def __init__(self, rate: float, seconds: int) -> None:
        self.rate, self.seconds, self.clock = rate, seconds, BEGIN
        context = SimpleNamespace(
            sample_rate=48000, layout=SimpleNamespace(name="mono"), format=SimpleNamespace(name="s16")
        )
        self.streams = SimpleNamespace(audio=[SimpleNamespace(codec_context=context)])

    def decode(self, audio: int) -> Iterator[av.AudioFrame]:
        random = np.random.default_rng(0)
        click = np.sin(np.arange(480) * 0.2) * 20000
        for begin in range(0, self.seconds * 48000, 480):
            samples = np.zeros(480) if begin % 24000 else click
            sound = av.AudioFrame.from_ndarray(samples.astype(np.int16)[None], "s16", "mono")
            sound.sample_rate, sound.pts = 48000, None
            # What was heard last lies in a buffer for up to 60 ms.
            self.clock = max(self.clock, BEGIN + (begin + 480) / self.rate + random.random() ** 2 * 0.06)
            yield sound

    def close(self) -> None:
        pass


@pytest.mark.parametrize("rate", [48000, 48005, 47904], ids=["exact", "100 ppm fast", "2000 ppm slow"])
def test_sound_keeps_in_step_with_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    source = Drifting(rate, 20)
    ended = threading.Event()
    sounds: list[tuple[av.AudioFrame, float]] = []
    clock = SimpleNamespace(monotonic=lambda: source.clock, time=time.time)
    monkeypatch.setattr("rtlit.live.microphone.time", clock)
    microphone = Microphone(source, lambda *sound: sounds.append(sound), lambda why: ended.set())  # type: ignore[arg-type]
    assert ended.wait(20)
    plan = Recorder(tmp_path / "unused.mp4")._plan((64, 48))
    file = Recording(
        tmp_path / "a.mp4", "mp4", plan, frame(0), BEGIN + 1.25, microphone
    )  # a second later than the sound
    file.add_picture(frame(0), BEGIN + 1.25)
    for sound in sounds:
        file.add_sound(*sound)
    file.finish()
    start, samples = heard(tmp_path / "a.mp4")
    loud = np.flatnonzero(np.abs(samples) > 0.1)
    clicks = start + loud[np.flatnonzero(np.diff(loud, prepend=-48000) > 4800)] / 48000
    true = np.arange(40) * 24000 / rate - 1.25
    np.testing.assert_allclose(clicks, true[true > 0], atol=0.012)  # a tenth of what can be noticed


@pytest.mark.parametrize("levels", [LIMITED, FULL])
@pytest.mark.parametrize("matrix", [BT601, BT709, 9])
def test_a_snapshot_shows_the_colours_of_the_frame(tmp_path: Path, matrix: int, levels: int) -> None:
    picture = frame(0, (67, 45), matrix, levels)
    luma, *chroma = planes_of(picture)
    chroma[0][...], chroma[1][...] = 116, 141  # even, so that there is nothing to interpolate
    np.clip(luma, 16, 235, out=luma)
    path = save_snapshot(live(picture, BEGIN), tmp_path)
    got = pyvips.Image.new_from_file(str(path)).numpy()
    color = color_of(picture)
    (black, scale), (grey, spread) = color.scales(8)
    parts = np.stack(
        [(luma - black) / scale, *(np.full(luma.shape, (code - grey) / spread) for code in (116, 141))], -1
    )
    assert got.shape == (45, 67, 3)
    np.testing.assert_allclose(got, (parts @ np.transpose(color.to_rgb())).clip(0, 1) * 255, atol=1.2)


def test_a_snapshot_of_a_real_picture_is_as_swscale_has_it(tmp_path: Path, clip: Path) -> None:
    with av.open(str(clip)) as container:
        picture = next(container.decode(video=0))
    picture.colorspace, picture.color_range = BT709, LIMITED
    got = pyvips.Image.new_from_file(str(save_snapshot(live(picture, BEGIN), tmp_path))).numpy().astype(int)
    # Scaled to 4:4:4 first, and its planes taken to RGB by the standard's matrix.
    full = picture.reformat(format="yuv444p", src_color_range=1, dst_color_range=1, interpolation="BICUBIC")
    color = color_of(picture)
    (black, scale), (grey, spread) = color.scales(8)
    y, u, v = (plane.astype(float) for plane in planes_of(full))
    true = np.stack([(y - black) / scale, (u - grey) / spread, (v - grey) / spread], -1) @ np.transpose(color.to_rgb())
    assert np.abs(got - true.clip(0, 1) * 255).mean() < 1.0


def test_names_of_snapshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda layout: "rtlit-20260301-120000")
    folder = tmp_path / "new" / "folder"
    paths = [save_snapshot(live(frame(index), BEGIN), folder) for index in range(3)]
    assert [path.name for path in paths] == [f"rtlit-20260301-120000{n}.png" for n in ("", "-2", "-3")]
    assert sorted(folder.iterdir()) == sorted(paths)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file: no snapshot can be saved in it"):
        save_snapshot(live(frame(0), BEGIN), tmp_path / "file")


def test_a_snapshot_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"\.png: can't be written \(No space left on device\)"):
        save_snapshot(live(frame(0), BEGIN), tmp_path)
    assert not list(tmp_path.iterdir())


class FakeCamera:
    """Stands in for pyvirtualcam.Camera: keeps what it is sent."""

    made: list[FakeCamera] = []
    gate: threading.Event | None = None
    fault: Exception | None = None

    def __init__(self, width: int, height: int, fps: float, *, fmt: str, device: str | None) -> None:
        assert fmt == "i420"
        self.width, self.height, self.fps, self.device = width, height, fps, device or "/dev/video7"
        self.pictures: list[Any] = []
        self.times: list[float] = []
        self.closed = 0
        FakeCamera.made.append(self)

    def send(self, picture: Any) -> None:
        assert picture.dtype == np.uint8 and picture.size == self.width * self.height * 3 // 2
        self.times.append(time.monotonic())
        self.pictures.append(picture.copy())
        if self.gate is not None:
            assert self.gate.wait(20)
        if self.fault is not None:
            raise self.fault

    def close(self) -> None:
        self.closed += 1

    def planes(self, index: int = -1) -> list[Any]:
        y, w, h = self.pictures[index], self.width, self.height
        parts = y[: w * h], y[w * h : w * h * 5 // 4], y[w * h * 5 // 4 :]
        return [part.reshape(rows, -1) for part, rows in zip(parts, (h, h // 2, h // 2), strict=True)]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeCamera]:
    module = ModuleType("pyvirtualcam")
    module.Camera, module.PixelFormat = FakeCamera, SimpleNamespace(I420="i420")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyvirtualcam", module)
    monkeypatch.setattr(FakeCamera, "made", [])
    monkeypatch.setattr(FakeCamera, "gate", None)
    monkeypatch.setattr(FakeCamera, "fault", None)
    return FakeCamera


def shown_by(fake: type[FakeCamera], size: tuple[int, int], picture: av.VideoFrame) -> FakeCamera:
    camera = VirtualCamera(None, size, 30.0)
    camera.send(live(picture, BEGIN))
    until(lambda: fake.made[-1].pictures)
    camera.close()
    assert fake.made[-1].closed == 1
    return fake.made[-1]


def test_a_virtual_camera_gets_the_planes_as_they_are(fake: type[FakeCamera]) -> None:
    sent = frame(3, (640, 480), BT601, LIMITED)
    camera = shown_by(fake, (640, 480), sent)
    assert (camera.width, camera.height, camera.fps) == (640, 480, 30.0)
    for got, plane in zip(camera.planes(), planes_of(sent), strict=True):
        np.testing.assert_array_equal(got, plane)


@pytest.mark.parametrize(("matrix", "levels"), [(BT709, LIMITED), (BT601, FULL), (BT709, FULL)])
def test_a_virtual_camera_shows_the_same_colours(fake: type[FakeCamera], matrix: int, levels: int) -> None:
    sent = frame(0, (320, 240), matrix, levels)
    y, u, v = planes_of(sent)
    y[...], u[...], v[...] = 120, 70, 190
    camera = shown_by(fake, (320, 240), sent)
    told = av.VideoFrame(320, 240, "yuv420p")
    told.colorspace, told.color_range = BT601, LIMITED
    colors = []
    for picture, planes in ((sent, planes_of(sent)), (told, camera.planes())):
        color = color_of(picture)
        (black, scale), (grey, spread) = color.scales(8)
        parts = [(planes[0].mean() - black) / scale, *((plane.mean() - grey) / spread for plane in planes[1:])]
        colors.append(np.array(color.to_rgb()) @ parts * 255)
    np.testing.assert_allclose(*colors, atol=4)  # swscale rounds down twice; the wrong matrix is 20 off


@pytest.mark.parametrize(
    ("camera_size", "size", "box"),
    [
        ((640, 480), (1280, 720), (0, 60, 640, 360)),  # bars above and below
        ((1280, 720), (640, 480), (160, 0, 960, 720)),  # at the sides
        ((641, 361), (853, 480), (0, 0, 640, 360)),  # odd sizes
        ((640, 360), (480, 854), (218, 0, 202, 360)),  # upright
    ],
)
def test_other_sizes_are_fitted_in(
    fake: type[FakeCamera], camera_size: tuple[int, int], size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    sent = frame(0, size, BT601, LIMITED)
    for plane, code in zip(planes_of(sent), (200, 90, 160), strict=True):
        plane[...] = code
    camera = shown_by(fake, camera_size, sent)
    assert (camera.width, camera.height) == (camera_size[0] // 2 * 2, camera_size[1] // 2 * 2)
    x, y, width, height = box
    for got, code, black, shift in zip(camera.planes(), (200, 90, 160), (16, 128, 128), (0, 1, 1), strict=True):
        want = np.full(got.shape, black)
        want[y >> shift : (y + height) >> shift, x >> shift : (x + width) >> shift] = code
        np.testing.assert_allclose(got, want, atol=1)


def test_bars_are_black_again_when_the_shape_changes(fake: type[FakeCamera]) -> None:
    camera = VirtualCamera(None, (640, 480), 200.0)
    for index, size in enumerate([(640, 480), (640, 360)]):
        camera.send(live(frame(index, size, BT601), BEGIN))
        until(lambda index=index: camera.sent > index)  # type: ignore[misc]
    until(lambda: len(fake.made[0].pictures) >= 2)
    camera.close()
    luma = fake.made[0].planes()[0]
    assert (luma[:60] == 16).all() and (luma[420:] == 16).all() and (luma[60:420] != 16).any()


def test_a_busy_virtual_camera_gets_the_newest(fake: type[FakeCamera], monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(fake, "gate", gate)
    camera = VirtualCamera("/dev/video9", (64, 48), 1000.0)
    assert camera.device == "/dev/video9"
    camera.send(live(frame(0, matrix=BT601), BEGIN))
    until(lambda: fake.made[0].pictures)
    for index in range(1, 20):
        camera.send(live(frame(index, matrix=BT601), BEGIN))  # returns though the first isn't through
    gate.set()
    until(lambda: len(fake.made[0].pictures) >= 2)
    camera.close()
    np.testing.assert_array_equal(fake.made[0].planes(1)[0], planes_of(frame(19))[0])
    assert camera.sent == 2


def test_a_virtual_camera_is_fed_at_its_rate_at_most_and_never_left_silent(fake: type[FakeCamera]) -> None:
    camera = VirtualCamera(None, (64, 48), 20.0)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        camera.send(live(frame(0, matrix=BT601), BEGIN))
        time.sleep(0.002)
    sent = camera.sent
    until(lambda: len(fake.made[0].pictures) > sent + 1)  # repeated, for nothing new came
    camera.close()
    assert min(np.diff(fake.made[0].times)) > 0.9 / 20 - 0.001
    assert camera.sent - sent <= 1
    np.testing.assert_array_equal(fake.made[0].pictures[-1], fake.made[0].pictures[0])


def test_a_virtual_camera_that_fails(fake: type[FakeCamera], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "fault", RuntimeError("device was removed"))
    lines: list[str] = []
    camera = VirtualCamera(None, (64, 48), 30.0, on_warning=lines.append)
    camera.send(live(frame(0), BEGIN))
    until(lambda: lines)
    camera.send(live(frame(1), BEGIN))
    camera.close()
    camera.close()
    assert lines == [camera.error] == ["virtual camera /dev/video7: gave up (device was removed)"]
    assert fake.made[0].closed == 1


def test_no_virtual_camera(fake: type[FakeCamera], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("'v4l2loopback' backend: No v4l2 loopback device found at /dev/video[0-99].\n'x': y")

    monkeypatch.setattr(sys.modules["pyvirtualcam"], "Camera", refuse)
    with pytest.raises(DeviceError, match=r"^no virtual camera: .*; pyvirtualcam says: No v4l2 .*\]\.$"):
        VirtualCamera(None, (640, 480), 30)
    with pytest.raises(DeviceError, match=r"^virtual camera /dev/video3: "):
        VirtualCamera("/dev/video3", (640, 480), 30)
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(RtlitError, match=r"needs pyvirtualcam: pip install 'rtlit\[virtual-camera\]'"):
        VirtualCamera(None, (640, 480), 30)


@pytest.mark.parametrize(("size", "fps"), [((1, 480), 30), ((640, 480), 0), ((640, 480), float("nan"))])
def test_values_that_no_camera_has(fake: type[FakeCamera], size: tuple[int, int], fps: float) -> None:
    with pytest.raises(UsageError, match="can't be"):
        VirtualCamera(None, size, fps)
    assert not fake.made


def test_the_real_package_without_a_device_says_so_in_a_line() -> None:
    pytest.importorskip("pyvirtualcam")
    with pytest.raises(DeviceError) as error:
        VirtualCamera("/dev/video-no-such", (640, 480), 30)
    assert "\n" not in str(error.value) and "/dev/video-no-such" in str(error.value)
