"""What the live window remembers from one run to the next."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from rtlit.errors import OutputError
from rtlit.settings import MAX_STRENGTH

_MAX_SMOOTHING = 60  # seconds
_SMALLEST, _LARGEST = 64, 32768  # of a window, for sizes that no one can have meant


@dataclass
class Preferences:
    """Settings of the live view, as they were left.

    Attributes:
        strength, smoothing: as in `rtlit.settings.EnhanceSettings`; smoothing to a minute.
        mirror_camera, mirror_other: show cameras as a mirror does; and files and streams. See `mirror`.
        compare: before and after, side by side.
        split: where the line between them stands, 0 (left edge of the picture) to 1.
        full_screen: the window fills the screen.
        statistics: figures are shown.
        window_size: (width, height) in the desktop's units; None: as large as the picture.
        camera: whether `mirror` is about cameras; not stored.
    """

    strength: float = 1.0
    smoothing: float = 0.5
    mirror_camera: bool = True
    mirror_other: bool = False
    compare: bool = False
    split: float = 0.5
    full_screen: bool = False
    statistics: bool = False
    window_size: tuple[int, int] | None = None
    camera: bool = field(default=True, compare=False)

    @property
    def mirror(self) -> bool:
        """The picture is shown as in a mirror: cameras unless told otherwise, and nothing else."""
        return self.mirror_camera if self.camera else self.mirror_other

    @mirror.setter
    def mirror(self, value: bool) -> None:
        setattr(self, "mirror_camera" if self.camera else "mirror_other", value)

    @staticmethod
    def path() -> Path:
        """$XDG_CONFIG_HOME/rtlit/live.json; ~/.config where that isn't set, or relative (the standard: ignore it)."""
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or "~")
        return (folder if folder.is_absolute() else Path("~/.config").expanduser()) / "rtlit" / "live.json"

    @classmethod
    def load(cls, warn: Callable[[str], None] = lambda line: None, *, camera: bool = True) -> Preferences:
        """As they were saved; what is missing or can't be used is as it was at first, and `warn` gets a line of it."""
        preferences, path = cls(camera=camera), cls.path()
        try:
            stored = json.loads(path.read_bytes())
        except FileNotFoundError:
            return preferences
        except (OSError, ValueError, RecursionError) as error:
            why = error.strerror if isinstance(error, OSError) else "damaged"
            warn(f"{path}: settings can't be read ({why}); the defaults are taken")
            return preferences
        if not isinstance(stored, dict):
            warn(f"{path}: holds no settings (damaged); the defaults are taken")
            return preferences
        for name, value in stored.items():
            if name not in _CHECKS:
                continue
            if _CHECKS[name](value):
                setattr(preferences, name, tuple(value) if isinstance(value, list) else value)
            else:
                warn(f"{path}: {name} can't be {json.dumps(value)[:40]}; the default is taken")
        return preferences

    def save(self) -> None:
        """Write them, all or nothing.

        Raises:
            OutputError: the folder or file can't be written.
        """
        path = self.path().resolve()  # where dotfiles are links, the link stays
        values = {name: value for name, value in asdict(self).items() if name in _CHECKS}
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".live-")
            with open(handle, "w", encoding="utf-8") as file:
                json.dump(values, file, indent=2)
                file.write("\n")
            os.replace(temporary, path)
        except OSError as error:
            if temporary is not None:
                with suppress(OSError):
                    os.unlink(temporary)
            raise OutputError(f"{path}: settings can't be saved: {error.strerror}; check the folder") from None


def _number(low: float, high: float) -> Callable[[object], bool]:
    def check(value: object) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high

    return check


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_size(value: object) -> bool:
    if value is None:
        return True
    sides = value if isinstance(value, list) and len(value) == 2 else [math.nan]
    return all(type(side) is int and _SMALLEST <= side <= _LARGEST for side in sides)


_CHECKS: dict[str, Callable[[object], bool]] = {
    "strength": _number(0, MAX_STRENGTH),
    "smoothing": _number(0, _MAX_SMOOTHING),
    "split": _number(0, 1),
    "window_size": _is_size,
    **{each.name: _is_bool for each in fields(Preferences) if each.type == "bool" and each.name != "camera"},
}
