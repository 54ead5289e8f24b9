"""Live sources: pace, faults, cameras; a camera without a kernel where there is a C compiler."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from video_tools import DATA, make_clip, shown

from rtlit.errors import DeviceError, InputError, UsageError
from rtlit.live import cameras, source as source_module
from rtlit.live.cameras import Camera, Mode, best_mode, find_again, find_camera, list_cameras
from rtlit.live.source import Captured, LiveSource, SourceSettings

STUB = Path(__file__).with_name("v4l2_stub.c")
SCRIPT = Path(__file__).with_name("v4l2_stub_run.py")
PATIENCE = 20.0  # seconds until a test gives up; none of them takes so long


def opened(url: str, said: list[str] | None = None, loop: bool = False) -> LiveSource:
    lines: list[str] = [] if said is None else said
    return LiveSource(SourceSettings(url=url, loop=loop), lines.append)


def all_of(source: LiveSource, at_most: int = 1000) -> list[Captured]:
    found = []
    for captured in source.frames():
        found.append(captured)
        if len(found) == at_most:
            break
    source.close()
    return found


def gaps(found: list[Captured]) -> list[float]:
    return [round(b.captured - a.captured, 6) for a, b in pairwise(found)]


def sizes(found: list[Captured]) -> list[tuple[int, int]]:
    return list(dict.fromkeys((each.frame.width, each.frame.height) for each in found))


class Collector:
    """Takes all frames on a thread of its own."""

    def __init__(self, source: LiveSource) -> None:
        self.source, self.frames, self.error = source, list[Captured](), list[BaseException]()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            for captured in self.source.frames():
                self.frames.append(captured)
        except BaseException as error:
            self.error.append(error)

    def until(self, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, (self.source.state, len(self.frames), self.error)
            time.sleep(0.005)

    def close(self) -> None:
        self.source.close()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        assert self.source.state in ("closed", "ended")


# Settings.


@pytest.mark.parametrize(
    "settings",
    [
        {"camera": "0", "url": "a.mp4"},
        {"camera": ""},
        {"url": "lavfi:"},
        {"url": "/dev/video0"},
        {"url": "a.mp4", "size": (640, 480)},
        {"size": (0, 480)},
        {"fps": 0.0},
        {"fps": float("nan")},
        {"input_format": "no such"},
        {"loop": True},
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        SourceSettings(**settings)


# Files and graphs, at their pace.


def test_a_graph_comes_at_its_rate_and_never_early() -> None:
    source = opened("lavfi:testsrc2=size=322x242:rate=25:duration=0.6")
    early = []
    found = []
    for captured in source.frames():
        found.append(captured)
        early.append(captured.captured - time.monotonic())
    assert len(found) == 15 and max(early) <= 0.001
    assert gaps(found) == [0.04] * 14
    assert source.description == "lavfi:testsrc2=size=322x242:rate=25:duration=0.6, 322×242 yuv420p, 25 fps"
    assert source.state == "ended"


@pytest.fixture
def uneven(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "uneven.mkv", (0, 1, 4, 5, 12, 13), sound=True)


def test_a_file_of_variable_rate_comes_when_it_is_due(uneven: Path) -> None:
    source = opened(str(uneven))
    found = all_of(source)
    times = shown(uneven)
    assert gaps(found) == pytest.approx([float(b - a) for a, b in pairwise(times)], abs=1e-4)
    assert [each.frame.pts for each in found] == sorted(each.frame.pts or 0 for each in found)
    assert {each.connection for each in found} == {1}


def test_a_loop_goes_on_without_a_gap(uneven: Path) -> None:
    found = all_of(opened(str(uneven), loop=True), at_most=14)
    assert [each.connection for each in found] == [1] * 6 + [2] * 6 + [3] * 2
    assert all(0.02 <= gap <= 0.3 for gap in gaps(found))


def test_a_graph_loops_too() -> None:
    found = all_of(opened("lavfi:testsrc=size=64x48:rate=50:duration=0.1", loop=True), at_most=12)
    assert [each.connection for each in found] == [1] * 5 + [2] * 5 + [3] * 2
    assert gaps(found) == [0.02] * 11


def test_the_turn_of_a_picture_stays_with_it() -> None:
    found = all_of(opened(str(DATA / "media3_sample_rotate_and_reflect.mp4")), at_most=1)
    assert found[0].frame.rotation % 360 in (90, 270)


@pytest.mark.parametrize(
    "name", ["tc_testsrc2_odd_height_and_width_vp9.mp4", "media3_dolbyVision-hdr.MOV", "ae_testsrc_with_attachment.mkv"]
)
def test_real_files(name: str) -> None:
    found = all_of(opened(str(DATA / name)), at_most=3)
    with av.open(str(DATA / name)) as container:
        first = next(container.decode(video=0))
    assert sizes(found) == [(first.width, first.height)] and found[0].frame.format.name == first.format.name


@pytest.mark.parametrize("second", [(2000, 2001, 2002), (500, 501, 502)])
def test_timestamps_that_jump_are_not_waited_for(tmp_path: Path, second: tuple[int, ...]) -> None:
    """A minute ahead, a minute back."""
    first = tuple(3500 - s for s in (3, 2, 1)) if second[0] == 2000 else (2500, 2501, 2502)
    parts = [make_clip(tmp_path / f"{i}.ts", steps, options={"bf": "0"}) for i, steps in enumerate((first, second))]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    began = time.monotonic()
    found = all_of(opened(str(both)))
    assert len(found) >= 5  # a transport stream's last picture may go with the jump
    assert time.monotonic() - began < 15 and all(0 <= gap < 10 for gap in gaps(found))


def test_a_slide_show_is_not_hurried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that says how long it stays is believed, though the next is due later than jumps are waited for."""
    monkeypatch.setattr(source_module, "_MAX_WAIT", 0.1)
    path = make_clip(tmp_path / "slides.mkv", (0, 10, 20, 21), options={"bf": "0"})
    assert gaps(all_of(opened(str(path)))) == pytest.approx([0.4, 0.4, 0.04], abs=0.05)


def test_who_lags_is_not_hurried(uneven: Path) -> None:
    """Who comes late for a frame gets the next ones at their pace, not in a rush."""
    source = opened(str(uneven), loop=True)
    frames = source.frames()
    next(frames)
    time.sleep(1.0)
    late = [next(frames) for _ in range(4)]
    source.close()
    assert gaps(late) == pytest.approx([0.12, 0.04, 0.28], abs=0.01)


def test_standard_input(uneven: Path) -> None:
    code = (
        "from rtlit.live.source import *\n"
        "source = LiveSource(SourceSettings(url='-'))\n"
        "print(len(list(source.frames())), source.state)"
    )
    with uneven.open("rb") as file:
        ran = subprocess.run(
            [sys.executable, "-c", code], stdin=file, capture_output=True, text=True, timeout=60, cwd=STUB.parent.parent
        )
    assert ran.stdout == "6 ended\n", ran.stderr


def test_frames_without_timestamps_come_at_the_rate(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "raw.h264", range(6), container="h264", options={"bf": "0"})
    found = all_of(opened(str(path)))
    assert len(found) == 6 and gaps(found) == pytest.approx([0.04] * 5, abs=0.001)


def test_a_size_that_changes_in_the_middle(tmp_path: Path) -> None:
    options = {"bf": "0"}
    parts = [
        make_clip(tmp_path / "a.ts", range(6), size=(66, 50), options=options),
        make_clip(tmp_path / "b.ts", range(6, 12), size=(130, 98), options=options),
    ]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert sizes(all_of(opened(str(both)))) == [(66, 50), (130, 98)]


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("nosuch.mp4", "no such file"),
        (__file__, "not a video"),
        (str(DATA), "is a directory"),
        ("lavfi:nosuch", "not a filter graph"),
        ("lavfi:sine", "no video stream"),
        ("foo://there/x", "Protocol not found"),
        ("rtsp://me:secret@127.0.0.1:9/x", "rtsp://127.0.0.1:9/x: can't be opened: Connection to tcp://127.0.0.1:9"),
    ],
)
def test_what_cannot_be_opened_gives_one_line(url: str, text: str) -> None:
    source = opened(url)
    with pytest.raises(InputError) as caught:
        source.open()
    assert text in str(caught.value) and "\n" not in str(caught.value) and "secret" not in str(caught.value)
    source.close()


def test_an_encrypted_file_says_so() -> None:
    with pytest.raises(InputError, match=r"can be decoded|encrypted"):
        all_of(opened(str(DATA / "media3_sample_fragmented_widevine.mp4")))


def test_open_twice_close_twice(uneven: Path) -> None:
    source = opened(str(uneven))
    source.open()
    source.open()
    assert source.state == "live" and "64×48 h264" in source.description
    source.close()
    source.close()
    assert source.state == "closed" and list(source.frames()) == []


# Faults: a pipe and a server that the test feeds.


pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"STALL_SECONDS": 0.2, "SILENCE_SECONDS": 1.0, "RETRY_SECONDS": 0.05}.items():
        monkeypatch.setattr(source_module, name, seconds)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A transport stream of 2 seconds, a key frame every 10."""
    folder = tmp_path_factory.mktemp("stream")
    return make_clip(folder / "a.ts", range(50), size=(320, 242), options={"bf": "0", "g": "10"}).read_bytes()


def damaged(stream: bytes) -> bytes:
    """With noise in place of what its packets carry; the tables stay."""
    noise = os.urandom(180)
    packets = [stream[at : at + 188] for at in range(0, len(stream), 188)]
    return b"".join(each if each[1] & 0x40 else each[:8] + noise for each in packets)


@pipes
def test_a_pipe_that_stalls_goes_on(tmp_path: Path, stream: bytes, quick: None) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    said: list[str] = []
    collector = Collector(opened(str(path), said))
    with path.open("wb") as pipe:
        half = len(stream) // 2 // 188 * 188
        pipe.write(stream[:half])
        pipe.flush()
        collector.until(lambda: collector.source.state == "stalled")
        before = len(collector.frames)
        pipe.write(stream[half:])
    collector.until(lambda: collector.source.state == "ended")
    assert 0 < before < len(collector.frames) <= 50 and not collector.error
    assert said == [f"{path}: nothing has come for 0.2 s", f"{path}: goes on"]
    collector.close()


@pipes
def test_close_while_a_pipe_is_silent(tmp_path: Path, stream: bytes) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    collector = Collector(opened(str(path)))
    with path.open("wb") as pipe:
        pipe.write(stream)
        pipe.flush()
        collector.until(lambda: len(collector.frames) > 3)
        collector.close()
        assert collector.source.state == "closed" and not collector.error


@pipes
def test_a_pipe_without_a_writer_is_not_waited_for_in_vain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "OPEN_SECONDS", 0.3)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(InputError, match="nothing comes from it"):
        opened(str(path)).open()
    path.open("wb").close()  # the thread that waits ends


def test_damaged_packets_in_a_file_are_counted(tmp_path: Path) -> None:
    with av.open(str(make_clip(tmp_path / "a.mkv", range(20), options={"bf": "0", "g": "1"}))) as container:
        video = container.streams.video[0]
        with av.open(str(tmp_path / "b.mkv"), "w") as output:
            copy = output.add_stream_from_template(video)
            for index, packet in enumerate(container.demux(video)):
                if packet.size:
                    data = os.urandom(packet.size) if 5 <= index < 10 else bytes(packet)
                    new = av.Packet(data)
                    new.pts, new.dts, new.time_base, new.stream = packet.pts, packet.dts, packet.time_base, copy
                    output.mux(new)
    source = opened(str(tmp_path / "b.mkv"))
    assert len(all_of(source)) == 15 and source.skipped == 5


class Server:
    """Serves one after another, each for a connection, what it is given; then waits until it is told to go on."""

    def __init__(self, *parts: bytes) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self._socket.getsockname()[1]}"
        self.hang_up = [threading.Event() for _ in parts]
        self._parts = parts
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for part, hang_up in zip(self._parts, self.hang_up, strict=True):
            connection, _ = self._socket.accept()
            with connection:
                try:
                    connection.sendall(part)
                except OSError:
                    continue
                hang_up.wait(PATIENCE)

    def close(self) -> None:
        for event in self.hang_up:
            event.set()
        self._socket.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def make(*parts: bytes) -> Server:
        servers.append(Server(*parts))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def test_a_stream_that_breaks_off_is_opened_anew(serve: Callable[..., Server], stream: bytes, quick: None) -> None:
    server = serve(stream, stream)
    said: list[str] = []
    collector = Collector(opened(server.url, said))
    collector.until(lambda: collector.frames)
    server.hang_up[0].set()
    collector.until(lambda: any(each.connection == 2 for each in collector.frames))
    assert f"{server.url}: ended; trying again every second" in said
    assert f"{server.url}: connected again" in said
    times = [each.captured for each in collector.frames]
    assert times == sorted(times) and not collector.error
    collector.close()


def test_a_stream_of_garbage_is_opened_anew(serve: Callable[..., Server], stream: bytes, quick: None) -> None:
    part = len(stream) // 2 // 188 * 188
    server = serve(stream[:part] + damaged(stream) * 20, stream)
    said: list[str] = []
    collector = Collector(opened(server.url, said))
    collector.until(lambda: collector.frames)
    server.hang_up[0].set()
    collector.until(lambda: any(each.connection > 1 for each in collector.frames))
    assert not collector.error
    collector.close()


def test_a_slow_taker_gets_the_newest(serve: Callable[..., Server], stream: bytes) -> None:
    source = opened(serve(stream * 3).url)
    source.open()
    frames = source.frames()
    next(frames)
    deadline = time.monotonic() + PATIENCE
    while source.missed < 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    missed = source.missed
    assert missed >= 20
    assert time.monotonic() - next(frames).captured < PATIENCE and source.missed >= missed
    source.close()


def test_pictures_over_http_come_as_they_arrive(serve: Callable[..., Server], tmp_path: Path, quick: None) -> None:
    """As network cameras send them: no timestamps, whatever FFmpeg makes up."""
    clip = make_clip(
        tmp_path / "a.avi", range(20), size=(162, 122), pixels="yuvj420p", codec="mjpeg", options={"bf": "0"}
    )
    head = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n"
    with av.open(str(clip)) as container:
        pictures = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    parts = [b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(p), p) for p in pictures]
    whole = head + b"".join(parts) + b"--b\r\n"
    server = serve(whole, whole)
    server.url = server.url.replace("tcp:", "http:")
    for event in server.hang_up:
        event.set()
    collector = Collector(opened(server.url))
    collector.until(lambda: any(each.connection == 2 for each in collector.frames))
    assert collector.source.description == f"{server.url}, 162×122 mjpeg"
    assert sizes(collector.frames) == [(162, 122)]
    collector.close()


# Cameras.

TWO = (
    Camera(0, "Integrated Camera: Integrated C", "/dev/video0", (), "usb-1"),
    Camera(2, "HD Pro Webcam C920", "/dev/video2", (), "usb-2"),
)


def test_finding_a_camera() -> None:
    assert find_camera(None, TWO) is TWO[0]
    assert find_camera("2", TWO) is TWO[1]
    assert find_camera("hd pro webcam c920", TWO) is TWO[1]
    assert find_camera("c920", TWO) is TWO[1]
    assert find_camera("/dev/video2", TWO) is TWO[1]
    with pytest.raises(DeviceError, match="no such camera; there is 0 .* or 2 "):
        find_camera("1", TWO)
    with pytest.raises(UsageError, match=r"--camera cam: could be 0 \(Integrated.*2 \(HD Pro"):
        find_camera("cam", TWO)
    with pytest.raises(DeviceError, match="plug one in.*--source FILE"):
        find_camera("c920", [])
    with pytest.raises(DeviceError, match="no such device"):
        find_camera("/dev/nosuch", TWO)


def test_a_link_names_a_camera(tmp_path: Path) -> None:
    device = tmp_path / "video4"
    device.touch()
    link = tmp_path / "usb-HD_Pro"
    link.symlink_to(device)
    assert find_camera(str(link), [Camera(4, "HD Pro", str(device))]).name == "HD Pro"
    assert find_camera(str(link), []).path == str(link)


def test_finding_a_camera_again_under_another_number() -> None:
    moved = Camera(3, TWO[1].name, "/dev/video3", (), "usb-9")
    assert find_again(TWO[1], [TWO[0], moved]) is moved
    twin = Camera(5, TWO[1].name, "/dev/video5", (), "usb-2")
    assert find_again(TWO[1], [moved, twin]) is twin
    with pytest.raises(DeviceError):
        find_again(TWO[1], [TWO[0]])


MODES = (
    Mode("gray", 1280, 720, 60),
    Mode("yuyv422", 640, 480, 30),
    Mode("yuyv422", 1280, 720, 10),
    Mode("mjpeg", 640, 480, 30),
    Mode("mjpeg", 1280, 720, 30),
    Mode("mjpeg", 1920, 1080, 30),
    Mode("h264", 1920, 1080, 60),
)


@pytest.mark.parametrize(
    ("size", "fps", "name", "expected"),
    [
        (None, None, None, "mjpeg 1280x720 30"),
        ((640, 480), None, None, "yuyv422 640x480 30"),
        (None, None, "yuyv422", "yuyv422 640x480 30"),
        (None, 10.0, "yuyv422", "yuyv422 1280x720 10"),
        ((1920, 1080), None, None, "mjpeg 1920x1080 30"),
        ((1920, 1080), 60.0, None, "h264 1920x1080 60"),
        ((800, 600), None, None, "None"),
    ],
)
def test_what_is_asked_of_a_camera(
    size: tuple[int, int] | None, fps: float | None, name: str | None, expected: str
) -> None:
    assert str(best_mode(Camera(0, "c", "p", MODES), size, fps, name)) == expected


def fake_ioctl(answers: dict[str, dict[tuple[int, ...], bytes]]) -> Callable[[int, int, bytearray], None]:
    """Answers by file name and (request number, the numbers asked with)."""

    def ioctl(device: int, request: int, buffer: bytearray) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{device}")).name
        asked = struct.unpack_from("=4I", buffer)
        for (number, *given), answer in answers.get(name, {}).items():
            if number == request & 0xFF and tuple(given) == asked[: len(given)]:
                buffer[: len(answer)] = answer
                return
        raise OSError(errno.EINVAL, "Invalid argument")

    return ioctl


def fourcc(name: bytes) -> int:
    return int(struct.unpack("=I", name)[0])


@pytest.mark.skipif(sys.platform != "linux", reason="v4l2 is Linux's")
def test_listing_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A webcam, its metadata node, a capture card that takes sizes in steps, a codec; numbers in order."""
    for number in (0, 1, 2, 10):
        (tmp_path / f"video{number}").touch()
    (tmp_path / "video0.jpg").touch()

    def named(card: bytes, bus: bytes, caps: int) -> bytes:
        return struct.pack("=16s32s32s3I", b"uvcvideo", card, bus, 0, 0x80000000 | 1, caps)

    yuyv, nv12, bayer = fourcc(b"YUYV"), fourcc(b"NV12"), fourcc(b"BA81")
    answers = {
        "video0": {
            (0,): named(b"HD Pro Webcam C920", b"usb-0000:00:14.0-1", 0x04200001),
            (2, 0, 1): struct.pack("=3I32sI", 0, 1, 0, b"YUYV 4:2:2", yuyv),
            (2, 1, 1): struct.pack("=3I32sI", 1, 1, 0, b"raw", bayer),
            (74, 0, yuyv): struct.pack("=5I", 0, yuyv, 1, 640, 480),
            (74, 1, yuyv): struct.pack("=5I", 1, yuyv, 1, 1279, 719),
            (75, 0, yuyv, 640, 480): struct.pack("=7I", 0, yuyv, 640, 480, 1, 1, 15),
            (75, 1, yuyv, 640, 480): struct.pack("=7I", 1, yuyv, 640, 480, 1, 1001, 30000),
        },
        "video1": {(0,): named(b"HD Pro Webcam C920", b"usb-0000:00:14.0-1", 0x04A00000)},
        "video10": {
            (0,): named(b"Card", b"pci", 0x04000001),
            (2, 0, 1): struct.pack("=3I32sI", 0, 1, 0, b"", nv12),
            (74, 0, nv12): struct.pack("=9I", 0, nv12, 3, 16, 1920, 2, 16, 1080, 2),
        },
    }
    monkeypatch.setattr(cameras, "_DEV", tmp_path)
    monkeypatch.setattr(cameras, "_SYS", tmp_path / "sys")
    monkeypatch.setattr(cameras, "_ioctl", fake_ioctl(answers))
    found = list_cameras()
    assert [(c.number, c.name, c.path, c.bus) for c in found] == [
        (0, "HD Pro Webcam C920", str(tmp_path / "video0"), "usb-0000:00:14.0-1"),
        (10, "Card", str(tmp_path / "video10"), "pci"),
    ]
    assert found[0].formats == ("yuyv422 640x480 29.97", "yuyv422 1279x719")
    assert found[1].formats == ("nv12 640x480", "nv12 1280x720", "nv12 1920x1080")


@pytest.mark.skipif(sys.platform != "linux", reason="v4l2 is Linux's")
def test_cameras_that_are_denied_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, index in ((0, 0), (1, 1)):
        folder = tmp_path / "sys" / f"video{number}"
        folder.mkdir(parents=True)
        (folder / "name").write_text("HD Pro Webcam C920\n")
        (folder / "index").write_text(f"{index}\n")
        (tmp_path / f"video{number}").touch()

    def denied(*_: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(cameras, "_DEV", tmp_path)
    monkeypatch.setattr(cameras, "_SYS", tmp_path / "sys")
    monkeypatch.setattr(cameras.os, "open", denied)
    assert list_cameras() == [Camera(0, "HD Pro Webcam C920", str(tmp_path / "video0"))]


@pytest.mark.parametrize(("system", "path"), [("darwin", "0"), ("win32", "video=FaceTime HD")])
def test_listing_cameras_of_other_systems(system: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [
        av.device.DeviceInfo("mic", "Microphone", True, ["audio"]),
        av.device.DeviceInfo("id", "FaceTime HD", True, ["video"]),
    ]
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(av, "enumerate_input_devices", lambda name: devices, raising=False)
    assert list_cameras() == [Camera(0, "FaceTime HD", path)]


def test_what_cannot_be_asked_of_other_systems_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(source_module, "list_cameras", lambda: [Camera(0, "FaceTime HD", "0")])
    with pytest.raises(DeviceError, match="mjpeg: on this system only raw formats"):
        LiveSource(SourceSettings(input_format="mjpeg")).open()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.EBUSY, "in use by another program"),
        (errno.EACCES, "permission denied"),
        (errno.ENODEV, "is not there"),
        (errno.EINVAL, "it offers mjpeg 1280x720 30, yuyv422 640x480 30"),
        (errno.EIO, "can't be opened: Input/output error"),
    ],
)
def test_a_camera_that_cannot_be_opened_gives_one_line(number: int, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = (Mode("mjpeg", 1280, 720, 30), Mode("yuyv422", 640, 480, 30))
    asked: dict[str, Any] = {}

    def refuse(path: str, **options: Any) -> None:
        asked.update(options, path=path)
        av.error.err_check(-number, path)

    monkeypatch.setattr(source_module, "list_cameras", lambda: [Camera(0, "HD Pro", "/dev/video0", modes)])
    monkeypatch.setattr(av, "open", refuse)
    source = LiveSource(SourceSettings(size=(1280, 720), fps=25))
    with pytest.raises(DeviceError, match=text) as caught:
        source.open()
    assert "HD Pro" in str(caught.value) and "\n" not in str(caught.value)
    assert asked["path"] == "/dev/video0"
    options = asked["container_options"]
    assert (options["video_size"], options["framerate"]) == ("1280x720", "25")


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a C compiler")
def test_a_camera_of_real_ioctls(tmp_path: Path) -> None:
    """FFmpeg's own v4l2 on a driver that answers from a preloaded library: formats, unplugging, silence, damage."""
    library = tmp_path / "stub.so"
    built = subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, STUB, "-ldl"], capture_output=True)
    if built.returncode:
        pytest.skip("the C compiler has no Linux headers")
    picture = make_clip(
        tmp_path / "picture.mjpeg", (0,), size=(1280, 720), pixels="yuvj420p", codec="mjpeg", options={"bf": "0"}
    )
    for number in (0, 1):
        shutil.copy(picture, tmp_path / f"video{number}.1280x720.jpg")
    (tmp_path / "video0").touch()
    environment = {**os.environ, "LD_PRELOAD": str(library), "V4L2_STUB": str(tmp_path / "video")}
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=STUB.parent.parent,
        env={**environment, "PYTHONPATH": str(STUB.parent.parent)},
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["listed"] == [["Stub Camera: Stub", 5]]
    assert told["description"] == "Stub Camera: Stub, 1280×720 mjpeg, 30 fps"
    assert told["formats"] == [["yuvj420p", 1280, 720]]
    assert told["clock"] == "the driver's"
    assert told["gap_ms"] == pytest.approx(1000 / 30, abs=0.5)
    assert told["yuyv"] == ["yuyv422", 640, 480, 6]  # BT.601
    assert "is in use by another program" in told["busy"]
    assert "does not deliver 1000x700; it offers yuyv422 640x480 30," in told["size"]
    assert told["skipped"] > 0
    told_in_order = iter(told["said"])  # a busy machine may stall more often
    for line in (
        "nothing has come for 0.6 s",
        "goes on",
        "nothing has come for 0.6 s",
        "nothing for 1.5 s; waiting for it",
        "connected again",
        "unplugged; waiting for it",
        "connected again",
    ):
        assert f"Stub Camera: Stub: {line}" in told_in_order, told["said"]
    assert told["kept"] == [40, 40] and told["connections"][-1] >= 11
    assert told["state"] == "closed"
