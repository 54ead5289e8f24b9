"""The window itself: waits for frames and events, draws when something changed, and sleeps otherwise."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from ctypes import CFUNCTYPE, byref, c_char_p, c_int, c_uint
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtlit.errors import RtlitError
from rtlit.live.controls import Controls
from rtlit.live.files import LiveFiles
from rtlit.live.keys import CLOSING, HELP, REPEATING, action_of, code_of
from rtlit.live.overlay import Overlay, Panel, text_size
from rtlit.live.picture import Rect, Texture, letterbox
from rtlit.live.sdl import sdl2, sdl_error

if TYPE_CHECKING:
    from types import TracebackType

    from rtlit.live.pipeline import LiveFrame, LivePipeline
    from rtlit.live.preferences import Preferences
    from rtlit.live.recorder import Recorder

_IDLE_MS = 250  # between looks at the source's state and the clock while no frame comes
_CURSOR_SECONDS = 2.0  # of rest before it hides in full screen
_HOLD_MS = 350  # of the key B: shorter is a tap
_FIRST_FRAME_SECONDS = 1.5  # that the window waits for, to open at the picture's size
_NO_PICTURE, _SMALLEST, _OF_SCREEN = (960, 540), (480, 270), 0.8
_BLIND = (b"offscreen", b"dummy", b"evdev")  # SDL's drivers without a screen, which it falls back on
_GL_RENDERER = 0x1F01
_EMULATORS = (b"llvmpipe", b"softpipe", b"swrast", b"swiftshader")
_HINTS = {
    b"SDL_APP_NAME": b"rtlit",
    # KDE would turn its compositor off for SDL's windows, as for games, and tear.
    b"SDL_VIDEO_X11_NET_WM_BYPASS_COMPOSITOR": b"0",
    # SDL would send what its own renderer drew through OpenGL, even an emulated one: 9 ms a frame of 1280×720, not 2.
    **({b"SDL_FRAMEBUFFER_ACCELERATION": b"0"} if sys.platform == "linux" else {}),
    b"SDL_MOUSE_FOCUS_CLICKTHROUGH": b"1",
}


class DesktopWindow:
    """A window on a running pipeline; see `rtlit.live.window.run_window`. All of it on one thread.

    Attributes:
        controls: what is shown and how.
        window, renderer: SDL's.
    """

    def __init__(
        self,
        pipeline: LivePipeline,
        preferences: Preferences,
        title: str,
        snapshots: Path,
        record: Callable[[], Recorder],
        tell: Callable[[str], None],
    ) -> None:
        self.pipeline, self.preferences, self._title = pipeline, preferences, title
        self._awake, self._over = threading.Event(), threading.Event()
        self._files = LiveFiles(pipeline, snapshots, record, tell, self._wake)
        self.controls = Controls(pipeline, preferences, self._files, title, HELP, tell)
        self._panels: list[Panel] = []
        self._titled, self._full_screen = "", preferences.full_screen
        self._held_since, self._moved = 0, time.monotonic()
        self._open()

    def __enter__(self) -> DesktopWindow:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        for name, value in _HINTS.items():
            sdl2.SDL_SetHint(name, value)
        sdl2.SDL_setenv(b"SDL_VIDEO_X11_WMCLASS", b"rtlit", 0)  # not a hint; else the window is python3's
        if sdl2.SDL_Init(sdl2.SDL_INIT_VIDEO):
            raise RtlitError(f"no window can be opened: {sdl_error()}; use --web to see it in the browser")
        if sdl2.SDL_GetCurrentVideoDriver() in _BLIND and not os.environ.get("SDL_VIDEODRIVER"):
            sdl2.SDL_QuitSubSystem(sdl2.SDL_INIT_VIDEO)
            raise RtlitError("no window can be opened: there is no display; use --web to see it in the browser")
        self._wake_event = sdl2.SDL_RegisterEvents(1)
        first = None if self.preferences.window_size else self.pipeline.wait(0, _FIRST_FRAME_SECONDS)
        self._own_size = size = self.preferences.window_size or _opening_size(first)
        self._blind = not (self.preferences.window_size or first)
        center, flags = sdl2.SDL_WINDOWPOS_CENTERED, sdl2.SDL_WINDOW_RESIZABLE | sdl2.SDL_WINDOW_ALLOW_HIGHDPI
        if self.preferences.full_screen:
            flags |= sdl2.SDL_WINDOW_FULLSCREEN_DESKTOP
        self.window = sdl2.SDL_CreateWindow(self._title.encode(), center, center, *size, flags)
        self.renderer = self.window and _renderer(self.window)
        if not self.renderer:
            reason = sdl_error()
            sdl2.SDL_QuitSubSystem(sdl2.SDL_INIT_VIDEO)
            raise RtlitError(f"no window can be opened: {reason}; use --web to see it in the browser")
        self._by_cpu = _name_of(self.renderer) == b"software"
        sdl2.SDL_SetWindowMinimumSize(self.window, *_SMALLEST)
        self._before, self._after = Texture(self.renderer), Texture(self.renderer)
        self._overlay = Overlay(self.renderer)
        self._watcher = threading.Thread(target=self._watch, name="rtlit-window", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Save what is being recorded and the preferences, and take the window away.

        Raises:
            RtlitError: the recording can't be finished.
        """
        self._over.set()
        self._watcher.join()
        for texture in (self._before, self._after, self._overlay):
            texture.forget()
        sdl2.SDL_DestroyRenderer(self.renderer)
        sdl2.SDL_DestroyWindow(self.window)
        sdl2.SDL_QuitSubSystem(sdl2.SDL_INIT_VIDEO)
        self.controls.save()
        self._files.close()

    def run(self, stop: threading.Event | None = None) -> None:
        """Show and serve until the window is closed, or `stop` is set."""
        while not self.controls.closing and not (stop and stop.is_set()):
            self.step()

    def step(self, idle_ms: int = _IDLE_MS) -> None:
        """Handle what has happened, or wait so long for something, and draw if that changed what is to be seen."""
        event = sdl2.SDL_Event()
        more = sdl2.SDL_WaitEventTimeout(byref(event), idle_ms)
        self._awake.clear()
        while more:
            self._handle(event)
            more = sdl2.SDL_PollEvent(byref(event))
        controls, shown = self.controls, self.controls.frame
        fresh = None if controls.frozen else self.pipeline.wait(shown.number if shown else 0, 0)
        controls.frame = fresh or shown
        if fresh and self._blind:
            self._fit(fresh)
        controls.look_around()
        self._follow()
        panels = controls.panels()
        if fresh or controls.changed or panels != self._panels:
            self._panels, controls.changed = panels, False
            self._draw()
        if fresh:
            self.pipeline.shown(fresh)

    def _watch(self) -> None:
        """Wake the window for each new frame, and when the source has ended: one event at a time."""
        number = 0
        while not self._over.is_set():
            frame = self.pipeline.wait(number, 0.25)
            if frame is not None:
                number = frame.number
                self._wake()
            elif self.pipeline.ended:
                self._wake()
                self._over.wait(0.25)

    def _wake(self) -> None:
        if not self._awake.is_set():
            self._awake.set()
            event = sdl2.SDL_Event()
            event.type = self._wake_event
            sdl2.SDL_PushEvent(byref(event))

    def _handle(self, event: Any) -> None:
        kind = event.type
        if kind == sdl2.SDL_QUIT:
            self.controls.closing = True
        elif kind == sdl2.SDL_KEYDOWN:
            self._press(code_of(event.key.keysym), event.key.keysym.mod, event.key.repeat, event.key.timestamp)
        elif kind == sdl2.SDL_KEYUP and code_of(event.key.keysym) == sdl2.SDLK_b:
            if self.controls.before_only and event.key.timestamp - self._held_since > _HOLD_MS:
                self.controls.toggle_before()
        elif kind == sdl2.SDL_MOUSEMOTION:
            self._moved = time.monotonic()
            if self.preferences.compare:
                place, (scale_x, _) = self._place(), self._scale()
                self.controls.move_split(((event.motion.x + 0.5) * scale_x - place.x) / place.width)
        elif kind == sdl2.SDL_MOUSEBUTTONDOWN and event.button.button == sdl2.SDL_BUTTON_LEFT:
            if event.button.clicks == 2:
                self.controls.toggle_full_screen()
        elif kind == sdl2.SDL_WINDOWEVENT:
            self._resized(event.window)
        elif kind in (sdl2.SDL_RENDER_TARGETS_RESET, sdl2.SDL_RENDER_DEVICE_RESET):
            for texture in (self._before, self._after, self._overlay):
                texture.forget()
            self.controls.changed = True

    def _press(self, code: int, modifiers: int, repeat: int, timestamp: int) -> None:
        if repeat and code not in REPEATING:
            return
        if self.pipeline.ended and code in CLOSING:
            self.controls.closing = True
            return
        action = action_of(code)
        if action is not None and not modifiers & (sdl2.KMOD_ALT | sdl2.KMOD_GUI):
            if code == sdl2.SDLK_b:
                self._held_since = timestamp
            action(self.controls, modifiers)

    def _resized(self, event: Any) -> None:
        self.controls.changed = True
        flags = sdl2.SDL_GetWindowFlags(self.window)
        odd = sdl2.SDL_WINDOW_FULLSCREEN_DESKTOP | sdl2.SDL_WINDOW_MAXIMIZED
        size = event.data1, event.data2
        # The event is said to be of the person's doing alone, but X11 sends it for the program's, too.
        if event.event == sdl2.SDL_WINDOWEVENT_RESIZED and not flags & odd and size != self._own_size:
            self._blind = False
            self.preferences.window_size = size
            self.controls.remember()

    def _fit(self, first: LiveFrame) -> None:
        """The first picture came late: be of its size, unless the person has chosen one."""
        self._blind = False
        self._own_size = _opening_size(first)
        if not self.preferences.full_screen:
            sdl2.SDL_SetWindowSize(self.window, *self._own_size)
            sdl2.SDL_SetWindowPosition(self.window, sdl2.SDL_WINDOWPOS_CENTERED, sdl2.SDL_WINDOWPOS_CENTERED)

    def _follow(self) -> None:
        """Bring the window's title, its size and the cursor in line with the controls."""
        full_screen = self.preferences.full_screen
        if full_screen != self._full_screen:
            self._full_screen = full_screen
            sdl2.SDL_SetWindowFullscreen(self.window, sdl2.SDL_WINDOW_FULLSCREEN_DESKTOP if full_screen else 0)
        hidden = full_screen and time.monotonic() > self._moved + _CURSOR_SECONDS
        if hidden == (sdl2.SDL_ShowCursor(sdl2.SDL_QUERY) == sdl2.SDL_ENABLE):
            sdl2.SDL_ShowCursor(sdl2.SDL_DISABLE if hidden else sdl2.SDL_ENABLE)
        title = self.controls.title()
        if title != self._titled:
            self._titled = title
            sdl2.SDL_SetWindowTitle(self.window, title.encode())

    def _draw(self) -> None:
        sdl2.SDL_SetRenderDrawColor(self.renderer, 0, 0, 0, 255)
        sdl2.SDL_RenderClear(self.renderer)
        output, (_, scale) = self._output(), self._scale()
        frame, controls = self.controls.frame, self.controls
        if frame is not None:
            place, mirror = self._place(), self.preferences.mirror
            comparing = self.preferences.compare and not controls.before_only
            split = round(place.width * self.preferences.split) if comparing else 0
            left = place.width if controls.before_only else split
            # SDL's software renderer takes 13 ms to mirror 1280×720 while drawing; planes take 1 ms.
            early, late = (mirror, False) if self._by_cpu else (False, mirror)
            if left:
                self._before.upload(frame.before, early)
                self._before.draw(place, Rect(place.x, place.y, left, place.height), late)
            if left < place.width:
                self._after.upload(frame.after, early)
                self._after.draw(place, Rect(place.x + left, place.y, place.width - left, place.height), late)
            if comparing:
                self._draw_split(place, place.x + split, text_size(output, scale))
        self._overlay.draw(self._panels, output, scale)
        sdl2.SDL_RenderPresent(self.renderer)

    def _draw_split(self, place: Rect, x: int, size: int) -> None:
        wide = max(2, size // 8)
        for shade, half in ((0, wide), (255, wide // 2)):  # white between black: seen on any picture
            sdl2.SDL_SetRenderDrawColor(self.renderer, shade, shade, shade, 255)
            sdl2.SDL_RenderFillRect(self.renderer, Rect(x - half, place.y, 2 * half, place.height).sdl())
        foot = place.y + place.height - size
        self._overlay.label("before", (x, foot), "left", place, size)
        self._overlay.label("after", (x, foot), "right", place, size)

    def _output(self) -> tuple[int, int]:
        """(width, height) in pixels, which on a fine display are more than the desktop's."""
        width, height = c_int(), c_int()
        sdl2.SDL_GetRendererOutputSize(self.renderer, byref(width), byref(height))
        return max(1, width.value), max(1, height.value)

    def _scale(self) -> tuple[float, float]:
        """Pixels of the output to one of the desktop's."""
        width, height = c_int(), c_int()
        sdl2.SDL_GetWindowSize(self.window, byref(width), byref(height))
        output = self._output()
        return output[0] / max(1, width.value), output[1] / max(1, height.value)

    def _place(self) -> Rect:
        """Where the picture lies in the output."""
        output = self._output()
        frame = self.controls.frame
        size = (frame.after.width, frame.after.height) if frame else output
        return letterbox(size, output)


def _renderer(window: Any) -> Any:
    """The GPU's renderer, or SDL's own where OpenGL would run on the CPU, too."""
    # No vertical sync: a desktop's compositor does not tear, and waiting for the screen costs up to a refresh.
    renderer = sdl2.SDL_CreateRenderer(window, -1, 0)
    # llvmpipe takes 16 ms of the CPU for a frame of 1280×720, SDL's renderer 2.
    if renderer and not os.environ.get("SDL_RENDER_DRIVER") and _is_emulated(renderer):
        sdl2.SDL_DestroyRenderer(renderer)
        renderer = sdl2.SDL_CreateRenderer(window, -1, sdl2.SDL_RENDERER_SOFTWARE)
    return renderer


def _is_emulated(renderer: Any) -> bool:
    if not _name_of(renderer).startswith(b"opengl"):
        return False
    find = sdl2.SDL_GL_GetProcAddress(b"glGetString")
    name = find and CFUNCTYPE(c_char_p, c_uint)(find)(_GL_RENDERER)
    return any(part in (name or b"").lower() for part in _EMULATORS)


def _name_of(renderer: Any) -> bytes:
    info = sdl2.SDL_RendererInfo()
    sdl2.SDL_GetRendererInfo(renderer, byref(info))
    return info.name or b""


def _opening_size(first: LiveFrame | None) -> tuple[int, int]:
    """(width, height) of the window: the picture's, but no more than most of the screen."""
    width, height = (first.after.width, first.after.height) if first else _NO_PICTURE
    bounds = sdl2.SDL_Rect()
    if sdl2.SDL_GetDisplayUsableBounds(0, byref(bounds)) or not bounds.w or not bounds.h:
        return width, height
    fit = min(1, _OF_SCREEN * bounds.w / width, _OF_SCREEN * bounds.h / height)
    return max(_SMALLEST[0], round(fit * width)), max(_SMALLEST[1], round(fit * height))
