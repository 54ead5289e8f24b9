"""rtlit: a real-time enhancer for backlit and under-exposed video.

>>> from rtlit import Enhancer, enhance_video, enhance_image
>>> enhance_video("backlit.mp4", "enhanced.mp4", strength=1.0)
>>> enhance_image("backlit.jpg", "enhanced.jpg")
>>> brighter = Enhancer()(picture)  # numpy RGB or av.VideoFrame in, the same out
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rtlit.enhancer import Enhancer
    from rtlit.errors import DeviceError, InputError, OutputError, RtlitError, UsageError, WeightsError
    from rtlit.image import ImageReport, enhance_image
    from rtlit.settings import EnhanceSettings
    from rtlit.video.settings import Progress, VideoReport, VideoSettings
    from rtlit.video.transcode import enhance_video

__version__ = "0.1.0"

__all__ = [
    "DeviceError",
    "EnhanceSettings",
    "Enhancer",
    "ImageReport",
    "InputError",
    "OutputError",
    "Progress",
    "RtlitError",
    "UsageError",
    "VideoReport",
    "VideoSettings",
    "WeightsError",
    "enhance_image",
    "enhance_video",
]

_MODULES = {
    "rtlit.enhancer": ["Enhancer"],
    "rtlit.errors": ["DeviceError", "InputError", "OutputError", "RtlitError", "UsageError", "WeightsError"],
    "rtlit.image": ["ImageReport", "enhance_image"],
    "rtlit.settings": ["EnhanceSettings"],
    "rtlit.video.settings": ["Progress", "VideoReport", "VideoSettings"],
    "rtlit.video.transcode": ["enhance_video"],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: `import rtlit` itself loads neither torch nor PyAV."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
