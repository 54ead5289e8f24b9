"""What the keys change and what stands over the picture; knows nothing of SDL."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rtlit.errors import OutputError, RtlitError
from rtlit.live.files import LiveFiles
from rtlit.live.overlay import Panel
from rtlit.settings import MAX_STRENGTH, EnhanceSettings

if TYPE_CHECKING:
    from rtlit.live.pipeline import LiveFrame, LivePipeline
    from rtlit.live.preferences import Preferences

_MAX_SMOOTHING = 2.0  # seconds that the keys reach
_TOAST_SECONDS, _ERROR_SECONDS, _SAVE_SECONDS = 2.0, 6.0, 1.0
_FIGURES_SECONDS = 0.5


class Controls:
    """The state of a window, and all that a person can do to it.

    Attributes:
        frame: what is shown; None before the first.
        frozen, before_only, help: shown so.
        changed: the picture must be drawn anew, though there is no new frame.
        closing: the person wants to go.
    """

    def __init__(
        self,
        pipeline: LivePipeline,
        preferences: Preferences,
        files: LiveFiles,
        title: str,
        help_panel: Panel,
        tell: Callable[[str], None],
    ) -> None:
        self.pipeline, self.preferences = pipeline, preferences
        self._files, self._name, self._help_panel, self._tell = files, title, help_panel, tell
        self.frame: LiveFrame | None = None
        self.frozen = self.before_only = self.help = self.changed = self.closing = False
        self._toast, self._toast_until = "H: help", time.monotonic() + 2 * _TOAST_SECONDS
        self._save_at = math.inf
        self._figures, self._figures_at = "", -math.inf

    def look_around(self) -> None:
        """What time brings: files that are done, settings to save, new figures."""
        now = time.monotonic()
        for result in self._files.results():
            self.say(str(result), _ERROR_SECONDS if isinstance(result, RtlitError) else _TOAST_SECONDS)
        if now >= self._save_at:
            self.save()
        if self.preferences.statistics and now >= self._figures_at + _FIGURES_SECONDS:
            self._figures, self._figures_at = _figures(self.pipeline), now

    def title(self) -> str:
        """The title: what is shown and how."""
        states = {
            "before only": self.before_only,
            "before and after": self.preferences.compare and not self.before_only,
            "mirrored": self.preferences.mirror,
            "frozen": self.frozen,
            "recording": self._files.recording_since is not None,
            "ended": self.pipeline.ended,
        }
        strength = f"strength {self.pipeline.strength:g}, smoothing {self.pipeline.smoothing:g} s"
        return ", ".join([f"{self._name} – {strength}", *(name for name, so in states.items() if so)])

    def panels(self) -> list[Panel]:
        """The words over the picture."""
        panels = []
        if self.preferences.statistics and not self.help:
            panels.append(Panel.of(self._figures, "top left"))
        if (since := self._files.recording_since) is not None:
            minutes, seconds = divmod(int(time.monotonic() - since), 60)
            panels.append(Panel.of(f"{minutes}:{seconds:02}", "top right", dot=True))
        if self.frozen:
            panels.append(Panel.of("frozen", "top right"))
        if self.before_only:
            panels.append(Panel.of("before", "top right"))
        if self.pipeline.ended:
            error = f"{self.pipeline.error}\n" if self.pipeline.error else ""
            panels.append(Panel.of(f"{error}The source has ended. Escape or Q closes the window.", "bottom"))
        if self.help:
            panels.append(self._help_panel)
        elif notice := self.pipeline.notice:
            panels.append(Panel.of(notice, "center"))
        elif self.frame is None and not self.pipeline.ended:
            panels.append(Panel.of(f"waiting for a picture from {self._name}", "center"))
        if time.monotonic() < self._toast_until:
            panels.append(Panel.of(self._toast, "bottom"))
        return panels

    def say(self, text: str, seconds: float = _TOAST_SECONDS) -> None:
        """Show a line for some seconds."""
        self._toast, self._toast_until = text, time.monotonic() + seconds

    def remember(self) -> None:
        """Save the preferences soon."""
        self._save_at = min(self._save_at, time.monotonic() + _SAVE_SECONDS)

    def save(self) -> None:
        """Write the preferences, if they changed; where that fails, a line says so."""
        if self._save_at == math.inf:
            return
        self._save_at = math.inf
        try:
            self.preferences.save()
        except OutputError as error:
            self._tell(str(error))
            self.say(str(error), _ERROR_SECONDS)

    def change_strength(self, by: float) -> None:
        """Stronger or weaker, 0 to 2."""
        self.pipeline.strength = round(min(max(self.pipeline.strength + by, 0), MAX_STRENGTH), 2)
        self.preferences.strength = self.pipeline.strength
        self.remember()
        self.say(f"strength {self.pipeline.strength:g}" + (" (when it goes on)" if self.frozen else ""))

    def change_smoothing(self, by: float) -> None:
        """More or less smoothing over time, 0 to 2 s."""
        self.pipeline.smoothing = round(min(max(self.pipeline.smoothing + by, 0), _MAX_SMOOTHING), 1)
        self.preferences.smoothing = self.pipeline.smoothing
        self.remember()
        self.say(f"smoothing {self.pipeline.smoothing:g} s")

    def reset(self) -> None:
        """Strength, smoothing and split as they were at first."""
        first = EnhanceSettings()
        self.pipeline.strength = self.preferences.strength = first.strength
        self.pipeline.smoothing = self.preferences.smoothing = first.smoothing
        self.move_split(0.5)
        self.say(f"strength {first.strength:g}, smoothing {first.smoothing:g} s")

    def move_split(self, to: float) -> None:
        """Where before ends and after begins, 0 to 1 of the picture's width."""
        self.preferences.split = round(min(max(to, 0.0), 1.0), 4)
        self.changed = True
        self.remember()

    def toggle_compare(self) -> None:
        """Before and after side by side, or after alone."""
        self.preferences.compare, self.before_only = not self.preferences.compare, False
        self.changed = True
        self.remember()
        self.say("compare: move the mouse, or Ctrl with Left and Right" if self.preferences.compare else "compare off")

    def toggle_before(self) -> None:
        """Before alone."""
        self.before_only = not self.before_only
        self.changed = True

    def toggle_mirror(self) -> None:
        """As in a mirror, or as others see it."""
        self.preferences.mirror = not self.preferences.mirror
        self.changed = True
        self.remember()
        self.say("mirror on" if self.preferences.mirror else "mirror off")

    def toggle_freeze(self) -> None:
        """Hold this picture, or go on."""
        self.frozen = not self.frozen and self.frame is not None
        self.changed = True

    def toggle_full_screen(self) -> None:
        """Fill the screen, or be a window."""
        self.preferences.full_screen = not self.preferences.full_screen
        self.changed = True
        self.remember()

    def toggle_statistics(self) -> None:
        """Figures shown or not."""
        self.preferences.statistics = not self.preferences.statistics
        self._figures_at = -math.inf
        self.remember()

    def toggle_help(self) -> None:
        """All keys shown or not."""
        self.help = not self.help

    def leave(self) -> None:
        """Out of the help, else out of the full screen, else out."""
        if self.help:
            self.help = False
        elif self.preferences.full_screen:
            self.toggle_full_screen()
        else:
            self.closing = True

    def quit(self) -> None:
        """Close the window."""
        self.closing = True

    def snapshot(self) -> None:
        """Save the picture that is shown, enhanced; a line says where."""
        if self.frame is not None:
            self._files.snapshot(self.frame)

    def toggle_record(self) -> None:
        """Begin or end a recording; a line says where it is."""
        self._files.toggle_recording()


def _figures(pipeline: LivePipeline) -> str:
    stats = pipeline.stats
    share = 100 * stats.dropped / stats.captured if stats.captured else 0
    latency = "latency not known yet"
    if not math.isnan(stats.latency_ms):
        latency = f"latency {stats.latency_ms:.0f} ms, 95 % below {stats.latency_p95_ms:.0f} ms"
    enhance = "" if math.isnan(stats.enhance_ms) else f": {stats.enhance_ms:.1f} ms a frame"
    return "\n".join(
        (
            f"{stats.shown_fps:.1f} frames a second shown of {stats.captured_fps:.1f}",
            latency,
            f"dropped {stats.dropped} of {stats.captured} ({share:.1f} %)",
            f"{stats.width}x{stats.height}, {stats.backend}{enhance}",
            f"{stats.source}: {stats.state}",
        )
    )
