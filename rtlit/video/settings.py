"""What `enhance_video` is asked for and what it tells: settings, progress and report."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from rtlit.errors import UsageError


@dataclass(frozen=True)
class VideoSettings:
    """How to decode and encode.

    Attributes:
        codec: FFmpeg encoder name ("libx265", "ffv1"); None takes the input's family.
        crf: constant quality in the encoder's own scale; None takes rtlit's near-transparent default.
        preset: the encoder's speed preset; None takes rtlit's default.
        options: (key, value) pairs for the encoder, FFmpeg's private options; they win over crf and preset.
        start: seconds of the input to skip, from its first frame, exact to a frame.
        duration: seconds to keep; None keeps all.
        compare: put the input and the enhanced frame side by side.
        output_format: FFmpeg muxer name ("matroska", "yuv4mpegpipe"); None follows the target's name.
        overwrite: replace an existing target.
        ten_bit: store 10 bits a sample where the input has fewer, so that lifted shadows are rounded more finely.
    """

    codec: str | None = None
    crf: float | None = None
    preset: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    start: float = 0.0
    duration: float | None = None
    compare: bool = False
    output_format: str | None = None
    overwrite: bool = False
    ten_bit: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.start < math.inf:
            raise UsageError(f"{self.start = } must be a number of seconds, 0 or more")
        if self.duration is not None and not 0 < self.duration < math.inf:
            raise UsageError(f"{self.duration = } must be a number of seconds above 0")
        if self.crf is not None and not 0 <= self.crf <= 255:
            raise UsageError(f"{self.crf = } must be between 0 (best) and 63, or the encoder's own largest")
        for name, value in (("codec", self.codec), ("preset", self.preset), ("output_format", self.output_format)):
            if value is not None and not value.strip():
                raise UsageError(f"{name} must be a name, not empty text")
        for pair in self.options:
            if len(pair) != 2 or not pair[0]:
                raise UsageError(f"an encoder option must be key=value, not {'='.join(pair)!r}")


@dataclass
class Progress:
    """How far a video is.

    Attributes:
        frames: frames written so far.
        seconds_done, seconds_total: seconds of video; the total is None when the input doesn't say.
        frames_total: frames to come in all, as far as the input says.
        fps: frames a second of wall-clock time so far.
    """

    frames: int
    seconds_done: float
    seconds_total: float | None
    frames_total: int | None
    fps: float


@dataclass(frozen=True)
class VideoReport:
    """What was done. `stage_ms` holds means a frame: decode, analyze, estimate, smooth, apply, encode."""

    input: str
    output: str
    frames: int
    video_seconds: float
    wall_seconds: float
    fps: float
    width: int
    height: int
    pixel_format: str
    input_codec: str
    encoder: str
    backend: str
    backend_reason: str
    stage_ms: dict[str, float]
    peak_rss_mb: float
    skipped_packets: int = 0
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
