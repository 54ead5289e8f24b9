"""The live picture in a window of the desktop; SDL draws it, and is loaded when there is one to open."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rtlit.errors import RtlitError

if TYPE_CHECKING:
    from rtlit.live.pipeline import LivePipeline
    from rtlit.live.preferences import Preferences
    from rtlit.live.recorder import Recorder


def run_window(
    pipeline: LivePipeline,
    preferences: Preferences,
    *,
    title: str,
    snapshots: Path,
    record: Callable[[], Recorder],
    tell: Callable[[str], None] = lambda line: None,
    stop: threading.Event | None = None,
) -> None:
    """Show a running pipeline in a window until that is closed; call it on the main thread.

    When the source ends, the last picture stays, with a line that says so, until Escape, Q, Return or Space is pressed.
    Keys: `rtlit.live.keys`. What they change goes to the pipeline, to `preferences` and, a second later, to their file.

    Args:
        title: of the window, the source's name; the state is added.
        snapshots: folder for pictures of the key S.
        record: makes the recorder when the key R is pressed; it may raise `RtlitError`, which is shown.
        tell: gets a line for each file that was written, and for settings that can't be.
        stop: closes the window when set, within a quarter of a second.

    Raises:
        RtlitError: PySDL2, SDL or Pillow isn't installed, there is no display, or a recording can't be finished.
        DeviceError: a frame is larger than the display's textures.
    """
    try:
        from rtlit.live.desktop import DesktopWindow
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("sdl2", "PIL"):
            raise
        raise RtlitError(f"the window needs {error.name}: pip install 'rtlit[live]', or use --web") from None
    except (ImportError, RuntimeError):  # of PySDL2 without the library
        raise RtlitError("the window needs the library SDL 2: pip install pysdl2-dll, or use --web") from None
    with DesktopWindow(pipeline, preferences, title, snapshots, record, tell) as window:
        window.run(stop)
