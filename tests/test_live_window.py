"""The live window, without a screen and, where Xvfb is, with one: pixels read back, keys and mouse as events."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from ctypes import byref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from rtlit.avframe import planes_of
from rtlit.errors import OutputError, RtlitError
from rtlit.frame import LUMA_WEIGHTS
from rtlit.live.desktop import DesktopWindow
from rtlit.live.keys import HELP, KEYS
from rtlit.live.overlay import Panel, paint
from rtlit.live.picture import letterbox
from rtlit.live.pipeline import Latest, LiveFrame, LiveStats
from rtlit.live.preferences import Preferences
from rtlit.live.recorder import Recorder
from rtlit.live.sdl import sdl2
from rtlit.live.window import run_window

_MATRIX_TAGS = {"bt601": 6, "bt709": 1, "bt2020": 9}
_PATIENCE = 20.0  # seconds for what takes milliseconds on a free machine


class Pipeline:
    """What a window sees of a LivePipeline, with frames put by hand."""

    def __init__(self) -> None:
        self.strength, self.smoothing, self.notice = 1.0, 0.5, ""
        self.error: Exception | None = None
        self.latest: Latest[LiveFrame] = Latest()
        self.on_screen: list[int] = []
        self.sinks: list[Any] = []
        self.stats = LiveStats(29.9, 29.8, 900, 9, 880, 41.6, 55.5, 8.1, 1280, 720, "cpu", "Caméra, 1280×720", "live")

    @property
    def ended(self) -> bool:
        return self.latest.closed

    def wait(self, after: int = 0, timeout: float = 0.5) -> LiveFrame | None:
        newest = self.latest.get(after, timeout)
        return newest[0] if newest else None

    def shown(self, frame: LiveFrame) -> None:
        self.on_screen.append(frame.number)

    def add_sink(self, sink: Any) -> None:
        self.sinks.append(sink)

    def remove_sink(self, sink: Any) -> None:
        self.sinks.remove(sink)

    def put(self, before: av.VideoFrame, after: av.VideoFrame) -> None:
        now = time.monotonic()
        frame = LiveFrame(before, after, now, now, self.latest.number + 1)
        self.latest.put(frame)
        for sink in self.sinks:
            sink.send(frame)


@dataclass
class Stage:
    """A pipeline, what the window remembers, and the window once it is opened."""

    folder: Path
    pipeline: Pipeline = field(default_factory=Pipeline)
    preferences: Preferences = field(default_factory=lambda: Preferences(mirror_camera=False, window_size=(640, 360)))
    told: list[str] = field(default_factory=list)
    make_recorder: Callable[[], Recorder] | None = None
    window: DesktopWindow | None = None

    def open(self) -> DesktopWindow:
        def record() -> Recorder:
            return self.make_recorder() if self.make_recorder else Recorder(self.folder / "talk.mp4")

        self.window = DesktopWindow(self.pipeline, self.preferences, "Cam", self.folder, record, self.told.append)
        self.window.controls._toast_until = 0.0  # the greeting would lie on the pixels
        return self.window

    @property
    def now(self) -> DesktopWindow:
        """The window, opened."""
        return self.window or self.open()

    def send(self, event: Any) -> None:
        window = self.now
        sdl2.SDL_PeepEvents(byref(event), 1, sdl2.SDL_ADDEVENT, 0, 0)  # SDL_PushEvent would set the time
        window.step(0)

    def until(self, condition: Callable[[], object]) -> None:
        """Let the window work until something is so."""
        end = time.monotonic() + _PATIENCE
        while not condition():
            assert time.monotonic() < end, "nothing of the kind happened"
            self.now.step(5)

    def show(self, before: av.VideoFrame, after: av.VideoFrame | None = None) -> NDArray[np.uint8]:
        if self.window is None:
            self.open()
        self.pipeline.put(before, after or before)
        self.until(lambda: self.pipeline.on_screen[-1:] == [self.pipeline.latest.number])
        return self.pixels()

    def pixels(self) -> NDArray[np.uint8]:
        """The output, R'G'B' [H, W, 3], drawn anew without the passing line of text."""
        self.now.controls._toast_until, self.now.controls.changed = 0.0, True
        self.now.step(0)
        width, height = self.now._output()
        out = np.empty((height, width, 4), np.uint8)
        kind = sdl2.SDL_PIXELFORMAT_RGBA32
        assert not sdl2.SDL_RenderReadPixels(self.now.renderer, None, kind, out.ctypes.data, 4 * width)
        return out[..., :3]

    def texts(self) -> str:
        return "\n".join(" ".join(row) for panel in self.now.controls.panels() for row in panel.rows)

    def key(self, code: int, modifiers: int = 0, *, up: bool = False, at_ms: int = 0, scancode: int = 0) -> None:
        event = sdl2.SDL_Event()
        event.type = sdl2.SDL_KEYUP if up else sdl2.SDL_KEYDOWN
        event.key.keysym.sym, event.key.keysym.mod, event.key.keysym.scancode = code, modifiers, scancode
        event.key.timestamp = at_ms
        self.send(event)

    def mouse(self, x: int, y: int, *, clicks: int = 0) -> None:
        event = sdl2.SDL_Event()
        if clicks:
            event.type, event.button.button, event.button.clicks = sdl2.SDL_MOUSEBUTTONDOWN, 1, clicks
        else:
            event.type, event.motion.x, event.motion.y = sdl2.SDL_MOUSEMOTION, x, y
        self.send(event)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    stage = Stage(tmp_path)
    yield stage
    if stage.window:
        stage.window.close()


def frame_of(
    luma: int | NDArray[Any],
    size: tuple[int, int] = (640, 360),
    cb: Any = 128,
    cr: Any = 128,
    tags: tuple[int, int] = (1, 1),
) -> av.VideoFrame:
    """A frame of plain colour, or of planes, tagged (matrix, range)."""
    frame = av.VideoFrame(*size, "yuv420p")
    for plane, value in zip(planes_of(frame), (luma, cb, cr), strict=True):
        plane[:] = value
    frame.colorspace, frame.color_range = tags
    return frame


def grey(pixels: NDArray[np.uint8], x: int, y: int = 40) -> int:
    return int(pixels[y, x].astype(int).mean())


def patches(size: tuple[int, int], low: int, high: int) -> tuple[NDArray[Any], ...]:
    """Planes of 32×32 patches of random colours, which need no chroma between samples."""
    width, height = size
    rows, columns = -(-height // 32), -(-width // 32)
    codes = np.random.default_rng(3).integers(low, high, (3, rows, columns), np.uint8)
    luma = codes[0].repeat(32, 0).repeat(32, 1)[:height, :width]
    chroma = codes[1:].repeat(16, 1).repeat(16, 2)[:, : -(-height // 2), : -(-width // 2)]
    return luma, chroma[0], chroma[1]


def to_rgb(y: Any, cb: Any, cr: Any, matrix: str, full: bool) -> NDArray[np.float64]:
    """R'G'B' 0 … 255 by BT.601-7, BT.709-6 and BT.2020-2, equations of section 3."""
    kr, kb = LUMA_WEIGHTS[matrix]
    scale_y, scale_c, black = (255.0, 255.0, 0.0) if full else (219.0, 224.0, 16.0)
    luma, blue, red = ((y - black) / scale_y, (cb - 128.0) / scale_c, (cr - 128.0) / scale_c)
    r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
    return 255 * np.clip(np.stack([r, (luma - kr * r - kb * b) / (1 - kr - kb), b], -1), 0, 1)


# SDL has BT.601 of both ranges and BT.709 of limited range; the others are converted to the last and rounded twice.
# BT.2020's wider gamut is clipped on the way where 8-bit codes of BT.709 end.
COLORS = [("bt601", False, 2), ("bt601", True, 2), ("bt709", False, 2), ("bt709", True, 4), ("bt2020", False, 6)]


def check_colors(stage: Stage, matrix: str, full: bool, tolerance: int, size: tuple[int, int]) -> None:
    stage.preferences.window_size = size
    y, cb, cr = patches(size, 90, 160)
    pixels = stage.show(frame_of(y, size, cb, cr, (_MATRIX_TAGS[matrix], 2 if full else 1)))
    assert pixels.shape[:2] == (size[1], size[0])
    centers = np.s_[16::32, 16::32]
    exact = to_rgb(*(codes.astype(float) for codes in (y[centers], cb[8::16, 8::16], cr[8::16, 8::16])), matrix, full)
    error = pixels[centers] - exact
    assert np.abs(error).max() <= tolerance and abs(error.mean()) < tolerance / 2
    assert np.ptp(exact) > 100  # there is colour to get wrong


@pytest.mark.parametrize("size", [(640, 368), (501, 333)])
@pytest.mark.parametrize(("matrix", "full", "tolerance"), COLORS)
def test_colors_are_those_of_the_standards(
    stage: Stage, matrix: str, full: bool, tolerance: int, size: tuple[int, int]
) -> None:
    check_colors(stage, matrix, full, tolerance, size)


def test_black_and_white_are_so_in_both_ranges(stage: Stage) -> None:
    for tags, (black, white) in {(1, 1): (16, 235), (6, 1): (16, 235), (6, 2): (0, 255), (1, 2): (0, 255)}.items():
        assert grey(stage.show(frame_of(black, tags=tags)), 320) <= 1
        assert grey(stage.show(frame_of(white, tags=tags)), 320) >= 254


def test_colors_agree_with_swscale(stage: Stage, picture: NDArray[np.uint8]) -> None:
    stage.preferences.window_size = (1280, 720)
    frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p", dst_colorspace=1, dst_color_range=1)
    frame.colorspace, frame.color_range = 1, 1
    shown = stage.show(frame).astype(int)
    swscale = frame.reformat(format="rgb24", src_colorspace=1, src_color_range=1, dst_color_range=2).to_ndarray()
    # swscale rounds down (1.2 codes darker in the mean), and interpolates chroma where SDL repeats it.
    assert np.abs((shown - swscale).mean((0, 1))).max() < 2
    assert np.abs(shown - picture).mean() <= np.abs(swscale.astype(int) - picture).mean() + 0.5


def test_compare_has_before_on_the_left_and_follows_the_mouse(stage: Stage) -> None:
    stage.preferences.compare = True
    pixels = stage.show(frame_of(60), frame_of(180))
    dark, light = grey(pixels, 100), grey(pixels, 540)
    assert dark < 60 < 180 < light
    assert {grey(pixels, 319), grey(pixels, 320)} == {255}  # the line
    stage.mouse(160, 300)
    pixels = stage.pixels()
    assert stage.preferences.split == pytest.approx(0.25, abs=0.01)
    assert (grey(pixels, 100), grey(pixels, 200)) == (dark, light)
    for x, split in ((-50, 0.0), (5000, 1.0)):
        stage.mouse(x, 300)
        assert stage.preferences.split == split and grey(stage.pixels(), 320) == (light if split == 0 else dark)


def test_split_moves_by_keys_alone(stage: Stage) -> None:
    stage.show(frame_of(60), frame_of(180))
    stage.key(sdl2.SDLK_c)
    stage.key(sdl2.SDLK_RIGHT, sdl2.KMOD_LCTRL)
    stage.key(sdl2.SDLK_RIGHT, sdl2.KMOD_LCTRL | sdl2.KMOD_LSHIFT)
    assert stage.preferences.split == pytest.approx(0.555) and stage.pipeline.smoothing == 0.5
    stage.key(sdl2.SDLK_LEFT, sdl2.KMOD_RCTRL)
    assert stage.preferences.split == pytest.approx(0.505)


def test_labels_stand_on_their_sides(stage: Stage) -> None:
    stage.preferences.compare = True
    plain = stage.show(frame_of(60), frame_of(60))
    differ = np.abs(plain.astype(int) - grey(plain, 100)).max(-1) > 3
    below = differ[180:]
    assert below[:, 240:316].any() and below[:, 324:400].any()
    assert not below[:, :200].any() and not below[:, 440:].any()
    stage.preferences.split = 0.01
    assert not (np.abs(stage.pixels().astype(int) - grey(plain, 100)).max(-1) > 3)[:, 200:].any()


@pytest.mark.parametrize("size", [(640, 360), (521, 301), (1281, 721)])
def test_mirror_is_exact_and_keeps_before_on_the_left(stage: Stage, size: tuple[int, int]) -> None:
    stage.preferences.window_size = size
    ramp = np.linspace(30, 220, size[0]).astype(np.uint8)[None].repeat(size[1], 0)
    plain = stage.show(frame_of(ramp, size), frame_of(255 - ramp, size))
    stage.key(sdl2.SDLK_m)
    assert np.array_equal(stage.pixels(), plain[:, ::-1])
    stage.key(sdl2.SDLK_c)
    mirrored = stage.pixels()
    assert grey(mirrored, 10) > 200  # before, mirrored: its light end
    assert grey(mirrored, size[0] - 10) > 200  # after, mirrored


@pytest.mark.parametrize("size", [(480, 360), (360, 640), (1919, 1079), (17, 33), (2560, 100)])
def test_letterbox_keeps_proportions_and_leaves_black_around(stage: Stage, size: tuple[int, int]) -> None:
    pixels = stage.show(frame_of(200, size))
    lit = pixels.max(-1) > 100
    rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
    height, width = len(rows), len(columns)
    assert abs(width / height - size[0] / size[1]) < 0.02 * size[0] / size[1]
    assert width == 640 or height == 360
    assert lit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert pixels[~lit].max(initial=0) == 0
    assert abs((640 - width) // 2 - columns[0]) <= 1 and abs((360 - height) // 2 - rows[0]) <= 1


def test_window_takes_the_size_of_a_late_first_picture_but_not_of_later_ones(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtlit.live.desktop._FIRST_FRAME_SECONDS", 0.0)
    stage.preferences.window_size = None
    assert stage.now._output() == (819, 461)  # 80 % of the screen of 1024×768, in the shape of most cameras
    stage.now.step(0)
    assert "waiting for a picture from Cam" in stage.texts()
    stage.show(frame_of(100, (600, 400)))
    stage.until(lambda: stage.now._output() == (600, 400))
    stage.show(frame_of(100, (640, 360)))
    assert stage.now._output() == (600, 400) and stage.preferences.window_size is None


def test_letterbox_of_extremes_has_pixels() -> None:
    assert letterbox((10000, 1), (640, 360)).height == 1
    assert letterbox((1, 10000), (1, 1)).width == 1


def test_size_and_colors_may_change_in_the_middle(stage: Stage) -> None:
    for size, tags in (((640, 360), (1, 1)), ((1281, 721), (6, 2)), ((333, 251), (6, 1)), ((1920, 1080), (9, 1))):
        white = 255 if tags[1] == 2 else 235
        assert grey(stage.show(frame_of(white, size, tags=tags)), 320, 180) >= 253


def test_only_the_newest_is_shown_and_each_once(stage: Stage) -> None:
    stage.show(frame_of(50))
    for luma in (80, 110, 200):
        stage.pipeline.put(frame_of(50), frame_of(luma))
    stage.until(lambda: stage.pipeline.on_screen[-1] == 4)
    assert grey(stage.pixels(), 320) > 200
    stage.pixels()
    assert stage.pipeline.on_screen == [1, 4]


def test_nothing_is_drawn_while_nothing_changes(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.show(frame_of(50))
    drawn: list[int] = []
    monkeypatch.setattr(stage.now, "_draw", lambda: drawn.append(1))
    for _ in range(20):
        stage.now.step(5)
    assert not drawn
    stage.pipeline.notice = "camera unplugged; waiting for it"
    stage.now.step(5)
    assert drawn == [1] and "camera unplugged" in stage.texts()


def test_before_stays_when_tapped_and_ends_when_held(stage: Stage) -> None:
    after = grey(stage.show(frame_of(60), frame_of(180)), 320)
    stage.key(sdl2.SDLK_b, at_ms=1000)
    stage.key(sdl2.SDLK_b, up=True, at_ms=1100)
    assert grey(stage.pixels(), 320) < 60 and "before" in stage.texts()
    stage.key(sdl2.SDLK_b, at_ms=2000)
    stage.key(sdl2.SDLK_b, up=True, at_ms=2100)
    assert grey(stage.pixels(), 320) == after
    stage.key(sdl2.SDLK_b, at_ms=3000)
    assert grey(stage.pixels(), 320) < 60
    stage.key(sdl2.SDLK_b, up=True, at_ms=3900)
    assert grey(stage.pixels(), 320) == after


def test_freeze_holds_the_picture(stage: Stage) -> None:
    held = grey(stage.show(frame_of(60)), 320)
    stage.key(sdl2.SDLK_SPACE)
    stage.pipeline.put(frame_of(200), frame_of(200))
    assert grey(stage.pixels(), 320) == held and "frozen" in stage.texts() and stage.pipeline.on_screen == [1]
    stage.key(sdl2.SDLK_SPACE)
    stage.until(lambda: stage.pipeline.on_screen == [1, 2])


def test_strength_and_smoothing_keys_keep_to_their_range(stage: Stage) -> None:
    for _ in range(12):
        stage.key(sdl2.SDLK_UP)
    assert stage.pipeline.strength == 2.0 and "strength 2" in stage.texts()
    stage.key(sdl2.SDLK_DOWN, sdl2.KMOD_LSHIFT)
    assert stage.pipeline.strength == 1.98 == stage.preferences.strength
    for _ in range(8):
        stage.key(sdl2.SDLK_LEFT)
    assert stage.pipeline.smoothing == 0.0 == stage.preferences.smoothing
    for _ in range(25):
        stage.key(sdl2.SDLK_RIGHT)
    assert stage.pipeline.smoothing == 2.0 and "smoothing 2 s" in stage.texts()
    stage.key(sdl2.SDLK_0)
    assert (stage.pipeline.strength, stage.pipeline.smoothing, stage.preferences.split) == (1.0, 0.5, 0.5)


def test_settings_are_saved_soon_after_a_change_and_at_the_end(stage: Stage) -> None:
    stage.key(sdl2.SDLK_UP)
    assert not Preferences.path().exists()
    stage.until(Preferences.path().exists)
    assert Preferences.load().strength == 1.1
    stage.key(sdl2.SDLK_m)
    stage.now.close()
    stage.window = None
    assert Preferences.load().mirror


def test_settings_that_cannot_be_saved_are_told_and_shown(stage: Stage) -> None:
    (stage.folder / "config").write_text("a file")
    stage.key(sdl2.SDLK_UP)
    stage.until(lambda: stage.told)
    assert "settings can't be saved" in stage.told[0] and "settings can't be saved" in stage.texts()


def test_full_screen_by_key_and_double_click_and_out_by_escape(stage: Stage) -> None:
    def full() -> bool:
        return bool(sdl2.SDL_GetWindowFlags(stage.now.window) & sdl2.SDL_WINDOW_FULLSCREEN)

    stage.show(frame_of(100))
    stage.key(sdl2.SDLK_F11)
    assert full() and stage.preferences.full_screen
    stage.mouse(5, 5, clicks=2)
    assert not full() and stage.preferences.window_size == (640, 360)
    stage.key(sdl2.SDLK_f)
    stage.key(sdl2.SDLK_h)
    stage.key(sdl2.SDLK_ESCAPE)
    assert full() and "this help" not in stage.texts()
    stage.key(sdl2.SDLK_ESCAPE)
    assert not full() and not stage.now.controls.closing
    stage.key(sdl2.SDLK_ESCAPE)
    assert stage.now.controls.closing


def test_help_names_every_key_and_fits_a_small_window(stage: Stage) -> None:
    codes = [code for key in KEYS for code in key.codes]
    assert len(codes) == len(set(codes))
    words = [row[i : i + 2] for i in (0, 2) for row in HELP.rows]
    assert words == [(key.name, key.what) for key in KEYS]
    stage.preferences.window_size = (320, 180)
    plain = stage.show(frame_of(200))
    stage.key(sdl2.SDLK_SLASH, sdl2.KMOD_LSHIFT)
    differ = np.abs(stage.pixels().astype(int) - plain).max(-1) > 3
    assert differ.mean() > 0.3 and not differ[0].any() and not differ[:, 0].any()


def test_letters_of_other_alphabets_are_keys_by_their_place(stage: Stage) -> None:
    stage.key(0x441, scancode=sdl2.SDL_SCANCODE_C)  # Cyrillic es
    assert stage.preferences.compare
    stage.key(sdl2.SDLK_c, sdl2.KMOD_LALT)  # a menu's or the desktop's
    assert stage.preferences.compare


def test_title_says_the_state(stage: Stage) -> None:
    stage.show(frame_of(100))
    for code in (sdl2.SDLK_c, sdl2.SDLK_m, sdl2.SDLK_SPACE, sdl2.SDLK_UP):
        stage.key(code)
    title = sdl2.SDL_GetWindowTitle(stage.now.window).decode()
    assert title == "Cam – strength 1.1, smoothing 0.5 s, before and after, mirrored, frozen"


def test_figures(stage: Stage) -> None:
    stage.show(frame_of(100))
    stage.key(sdl2.SDLK_d)
    text = stage.texts()
    for part in ("29.8 frames a second shown of 29.9", "42 ms", "56 ms", "dropped 9 of 900 (1.0 %)", "cpu: 8.1 ms"):
        assert part in text, text
    stage.pipeline.stats = LiveStats(0, 0, 0, 0, 0, *[float("nan")] * 3, 0, 0, "cpu", "Cam", "live")
    stage.key(sdl2.SDLK_i)
    stage.key(sdl2.SDLK_i)
    assert "nan" not in stage.texts() and "not known yet" in stage.texts()


def test_snapshot_and_recording_are_written_and_told(stage: Stage) -> None:
    stage.show(frame_of(60, (320, 180)), frame_of(180, (320, 180)))
    stage.key(sdl2.SDLK_s)
    stage.until(lambda: any("rtlit-" in line for line in stage.told))
    assert len(list(stage.folder.glob("rtlit-*.png"))) == 1
    stage.key(sdl2.SDLK_r)
    stage.until(lambda: stage.pipeline.sinks)
    for luma in (100, 110, 120, 130):
        stage.show(frame_of(luma, (320, 180)))
        time.sleep(0.02)
    assert "0:0" in stage.texts() and "recording" in stage.now.controls.title()
    stage.key(sdl2.SDLK_r)
    stage.until(lambda: f"wrote {stage.folder / 'talk.mp4'}" in stage.told)
    assert not stage.pipeline.sinks and "0:0" not in stage.texts()
    with av.open(str(stage.folder / "talk.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) >= 3


def test_recording_is_finished_when_the_window_closes(stage: Stage) -> None:
    stage.key(sdl2.SDLK_r)
    stage.until(lambda: stage.pipeline.sinks)
    stage.show(frame_of(60, (320, 180)))
    stage.now.close()
    stage.window = None
    assert (stage.folder / "talk.mp4").exists() and not stage.pipeline.sinks


def test_recording_that_cannot_begin_is_a_line_and_may_be_tried_again(stage: Stage) -> None:
    def refuse() -> Recorder:
        raise OutputError("talk.mp4: exists; take another name")

    stage.make_recorder = refuse
    stage.show(frame_of(60))
    stage.key(sdl2.SDLK_r)
    stage.until(lambda: "talk.mp4: exists" in stage.texts())
    stage.make_recorder = None
    stage.key(sdl2.SDLK_r)
    stage.until(lambda: stage.pipeline.sinks)


def test_the_end_is_said_and_waits_for_a_key(stage: Stage) -> None:
    last = grey(stage.show(frame_of(180)), 320)
    stage.pipeline.error = RtlitError("the camera is gone; plug it in again")
    stage.pipeline.latest.close()
    stage.now.step(0)
    assert "The source has ended" in stage.texts() and "the camera is gone" in stage.texts()
    stage.key(sdl2.SDLK_c)
    assert grey(stage.pixels(), 320, 40) in (last, 255) and not stage.now.controls.closing
    stage.key(sdl2.SDLK_RETURN)
    assert stage.now.controls.closing


def test_run_window_ends_by_its_close_button_and_by_stop(stage: Stage) -> None:
    def run(stop: threading.Event | None = None) -> None:
        options = {"title": "Cam", "snapshots": stage.folder, "record": lambda: Recorder(stage.folder / "a.mp4")}
        run_window(stage.pipeline, stage.preferences, **options, stop=stop)  # type: ignore[arg-type]

    def close() -> None:
        while not stage.pipeline.on_screen:
            time.sleep(0.005)
        event = sdl2.SDL_Event()
        event.type = sdl2.SDL_QUIT
        sdl2.SDL_PushEvent(byref(event))

    stage.pipeline.put(frame_of(60), frame_of(60))
    thread = threading.Thread(target=close)
    thread.start()
    run()
    thread.join()
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    run(stop)


def test_no_display_and_no_library_are_one_line(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    monkeypatch.setenv("DISPLAY", ":47321")
    with pytest.raises(RtlitError, match=r"no window can be opened: .*--web"):
        stage.open()
    for name in [name for name in sys.modules if name.startswith(("rtlit.live.", "sdl2"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sdl2", None)
    with pytest.raises(RtlitError, match=r"the window needs sdl2: pip install 'rtlit\[live\]'"):
        run_window(stage.pipeline, stage.preferences, title="", snapshots=stage.folder, record=lambda: None)  # type: ignore


def test_text_has_no_letters_without_a_shape() -> None:
    assert np.array_equal(
        paint(Panel.of("1280×720 Caméra", "center"), 20), paint(Panel.of("1280x720 Camera", "center"), 20)
    )
    white_on_dark = np.asarray(paint(Panel.of("before", "center"), 20))
    assert white_on_dark[..., :3].max() == 255 and white_on_dark[0, 0, 3] < 60  # corners are round


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch, stage: Stage) -> Iterator[str]:
    """A real X screen of 1000×700."""
    if not shutil.which("Xvfb"):
        pytest.skip("Xvfb isn't installed")
    read, write = os.pipe()
    arguments = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1000x700x24", "-noreset", "-nolisten", "tcp"]
    server = subprocess.Popen(arguments, pass_fds=(write,), stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        with os.fdopen(read) as pipe:
            number = pipe.readline().strip()
        if not number:
            pytest.skip("Xvfb doesn't start")
        monkeypatch.setenv("DISPLAY", f":{number}")
        monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
        yield f":{number}"
    finally:
        if stage.window:  # before its display goes
            stage.window.close()
            stage.window = None
        server.terminate()
        server.wait()


@pytest.mark.skipif(not shutil.which("xdotool"), reason="xdotool isn't installed")
def test_keys_and_mouse_of_a_real_screen(screen: str, stage: Stage) -> None:
    def do(*words: str) -> None:
        subprocess.run(["xdotool", *words], check=True, stdout=subprocess.DEVNULL)

    stage.show(frame_of(60), frame_of(180))
    do("key", "c")
    stage.until(lambda: stage.preferences.compare)
    do("mousemove", str((1000 - 640) // 2 + 160), "350")
    stage.until(lambda: abs(stage.preferences.split - 0.25) < 0.02)
    do("key", "shift+Up")
    stage.until(lambda: stage.pipeline.strength == 1.02)
    do("key", "f")
    stage.until(lambda: stage.now._output() == (1000, 700))
    pixels = stage.pixels()
    assert grey(pixels, 20, 300) < 60 and grey(pixels, 980, 300) > 180 and grey(pixels, 500, 20) == 0
    do("key", "Escape")
    stage.until(lambda: stage.now._output() == (640, 360))
    do("key", "q")
    stage.until(lambda: stage.now.controls.closing)


@pytest.mark.parametrize(("matrix", "full", "tolerance"), COLORS)
def test_colors_by_opengl(
    screen: str, stage: Stage, monkeypatch: pytest.MonkeyPatch, matrix: str, full: bool, tolerance: int
) -> None:
    monkeypatch.setenv("SDL_RENDER_DRIVER", "opengl")
    stage.preferences.window_size = (640, 368)
    try:
        stage.open()
    except RtlitError as error:
        pytest.skip(str(error))
    check_colors(stage, matrix, full, tolerance, (640, 368))
    luma = np.linspace(30, 220, 640).astype(np.uint8)[None].repeat(368, 0)
    plain = stage.show(frame_of(luma, (640, 368)))
    stage.key(sdl2.SDLK_m)
    assert np.abs(stage.pixels().astype(int) - plain[:, ::-1]).max() <= 2
