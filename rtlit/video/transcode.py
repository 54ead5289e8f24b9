"""enhance_video: decode → enhance → encode in three threads, everything else in the file kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from rtlit.settings import Device, EnhanceSettings
from rtlit.video.settings import Progress, VideoReport, VideoSettings

__all__ = ["Progress", "VideoReport", "VideoSettings", "enhance_video"]


def enhance_video(
    source: str | Path | BinaryIO,
    target: str | Path | BinaryIO,
    *,
    device: Device = "auto",
    strength: float = 1.0,
    smoothing: float = 0.5,
    estimate_every: int | None = None,
    weights: Path | str | None = None,
    threads: int | None = None,
    video: VideoSettings | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> VideoReport:
    """Being written."""
    raise NotImplementedError
