"""What `enhance_video` is asked for and what it tells: settings, progress and report."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from rtlit.errors import UsageError

Hwaccel = Literal["auto", "none", "cuda"]


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
        hwaccel: decode on the GPU ("cuda", NVDEC), in software ("none"), or on the GPU where it also enhances and can
            decode this ("auto").
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
    hwaccel: Hwaccel = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.start < math.inf:
            raise UsageError(f"start must be a number of seconds, 0 or more, not {self.start}")
        if self.duration is not None and not 0 < self.duration < math.inf:
            raise UsageError(f"duration must be a number of seconds above 0, not {self.duration}")
        if self.crf is not None and not 0 <= self.crf <= 255:
            raise UsageError(f"crf must be between 0 (best) and 63, or the encoder's own largest, not {self.crf}")
        for name, value in (("codec", self.codec), ("preset", self.preset), ("output_format", self.output_format)):
            if value is not None and not value.strip():
                raise UsageError(f"{name} must be a name, not empty text")
        if self.hwaccel not in get_args(Hwaccel):
            raise UsageError(f"hwaccel must be one of {', '.join(get_args(Hwaccel))}, not {self.hwaccel!r}")
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
    """What was done.

    `stage_ms` holds means a frame: decode, analyze, estimate, smooth, apply, encode; on CUDA decode, upload, compute,
    download (the device's time, which overlaps) and encode. `decoder` is where frames were decoded: "software" or
    "NVDEC".
    """

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
    decoder: str = "software"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
