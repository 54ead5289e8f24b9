"""Sound from a microphone through FFmpeg, with the time at which it was heard."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rtlit.errors import DeviceError

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

# PyAV's wheels look for ALSA's configuration and plug-ins (PulseAudio and PipeWire come as one) where they were built.
_ALSA_CONFIG = Path("/usr/share/alsa")
_ALSA_PLUGINS = ("/usr/lib/*/alsa-lib", "/usr/lib64/alsa-lib", "/usr/lib/alsa-lib")
_SILENT = ctypes.CFUNCTYPE(None)(lambda: None)  # kept: ALSA calls it later
_LAYOUTS = {1: "mono", 2: "stereo", 4: "4.0", 6: "5.1", 8: "7.1"}
_BELIEVED_AGE = 10.0  # seconds; a timestamp that isn't the time of day is far off
_SETTLED = 3.0  # seconds over which the earliest arrival counts
_JOIN_SECONDS = 1.0  # a driver may block


def open_microphone(name: str) -> InputContainer:
    """Open a microphone by its name; "default" is the system's.

    Linux: PulseAudio where FFmpeg has it, then ALSA ("default", "hw:1", "pulse"); macOS: avfoundation; Windows: dshow.

    Raises:
        DeviceError: there is none of that name, or it can't be opened.
    """
    import av

    why = "no sound system that FFmpeg knows"
    for driver, device in _devices(name):
        if driver == "alsa":
            _find_alsa()
        try:
            # A raw stream tells all about itself at once.
            return av.open(device, format=driver, options={"probesize": "32", "analyzeduration": "0"})
        except (av.error.FFmpegError, OSError, ValueError) as error:
            if not isinstance(error, ValueError):  # that is: no such driver here
                why = getattr(error, "strerror", None) or str(error)
    raise DeviceError(f"microphone {name!r}: can't be opened ({why}); give another name, or none for the default")


def _devices(name: str) -> list[tuple[str, str]]:
    """(FFmpeg's driver, what it calls the device), in the order to try."""
    if sys.platform == "darwin":
        return [("avfoundation", f":{name}")]
    if sys.platform == "win32":
        return [("dshow", f"audio={_first_dshow() if name == 'default' else name}")]
    return [("pulse", name), ("alsa", name)]


def _first_dshow() -> str:
    """The first microphone: dshow knows no default."""
    import av

    with suppress(av.error.FFmpegError, OSError, ValueError, AttributeError):
        for device in av.device.enumerate_input_devices("dshow"):
            if "audio" in device.media_types:
                return str(device.name)
    return "default"


def _find_alsa() -> None:
    """Show PyAV's ALSA the system's files, and keep it from printing ten lines where there is no sound card."""
    plugins = next((str(path) for pattern in _ALSA_PLUGINS for path in Path("/").glob(pattern[1:])), "")
    for name, path in (("ALSA_CONFIG_DIR", str(_ALSA_CONFIG)), ("ALSA_PLUGIN_DIR", plugins)):
        if Path(path).is_dir() and path:
            os.environ.setdefault(name, path)
    with suppress(OSError, AttributeError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            if "libasound" in line and "/alsa-lib/" not in line:
                ctypes.CDLL(line.split(maxsplit=5)[5]).snd_lib_error_set_handler(_SILENT)
                break


class Microphone:
    """Reads in a thread of its own and hands on every frame with the time at which its first sample was heard.

    The time goes by the count of samples, tied to the clock by the least delayed arrivals of the last seconds: so it
    is free of jitter, and follows a sound card whose crystal is slow or fast, or that lost samples.
    """

    def __init__(
        self,
        container: InputContainer,
        on_frame: Callable[[av.AudioFrame, float], None],
        on_end: Callable[[str], None],
    ) -> None:
        """
        Args:
            on_frame: told each frame and its time, in seconds of `time.monotonic`.
            on_end: told, in a few words, why there is no more sound.

        Raises:
            DeviceError: there is no sound in it.
        """
        self._container, self._on_frame, self._on_end = container, on_frame, on_end
        if not container.streams.audio:
            raise DeviceError("the microphone gives no sound")
        stream = container.streams.audio[0]
        context = stream.codec_context
        if " " in context.layout.name:  # ALSA tells the number of channels alone: "2 channels"
            context.layout = _LAYOUTS.get(context.layout.nb_channels, "stereo")
        self.rate, self.layout, self.format = context.sample_rate, context.layout.name, context.format.name
        self._closing = threading.Event()
        self._samples = 0
        self._delays: deque[tuple[float, float]] = deque()  # (when, by how much later than the samples say)
        self._thread = threading.Thread(target=self._read, name="rtlit-microphone", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._closing.set()
        self._thread.join(_JOIN_SECONDS)

    def _read(self) -> None:
        import av

        why = "it ended"
        try:
            for frame in self._container.decode(audio=0):
                if self._closing.is_set():
                    break
                self._on_frame(frame, self._time_of(frame))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
        finally:
            self._container.close()
        if not self._closing.is_set():
            self._on_end(why)

    def _time_of(self, frame: av.AudioFrame) -> float:
        now, length = time.monotonic(), frame.samples / self.rate
        # ALSA and PulseAudio stamp the time of day, the delay in their buffers (0.7 s was seen) taken off.
        age = time.time() - frame.time if frame.time is not None else 0.0
        heard = now - (age if length <= age < _BELIEVED_AGE else length)
        by_count = self._samples / self.rate
        self._samples += frame.samples
        # Of the latest _SETTLED seconds only what may still become the least is kept.
        while self._delays and self._delays[-1][1] >= heard - by_count:
            self._delays.pop()
        self._delays.append((now, heard - by_count))
        while self._delays[0][0] < now - _SETTLED:
            self._delays.popleft()
        return by_count + self._delays[0][1]
