"""Clips made with PyAV, and what the tests look at in a clip."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from rtlit.avframe import planes_of
from rtlit.video.transcode import VideoReport, VideoSettings, enhance_video

DATA = Path(__file__).parent / "data"
EVEN_STEPS = tuple(range(20))


def enhance(source: Any, target: Any, strength: float = 0.0, **video: Any) -> VideoReport:
    """enhance_video on one thread, strength 0 unless told."""
    return enhance_video(source, target, strength=strength, device="cpu", threads=1, video=VideoSettings(**video))


def dim_frame(index: int, width: int, height: int, name: str) -> av.VideoFrame:
    """A dark moving gradient with noise, full of detail at every depth."""
    frame = av.VideoFrame(width, height, name)
    noise = np.random.default_rng(index)
    for plane in planes_of(frame):
        rows, columns = plane.shape
        top = 255 if plane.dtype == np.uint8 else int(2 ** max(8, _depth(name)) - 1)
        ramp = np.add.outer(np.arange(rows), np.arange(columns) + 3 * index) / (rows + columns + 60) * top * 0.4
        plane[:] = np.clip(ramp + noise.normal(0, top / 80, plane.shape) + top * 0.06, 0, top)
    return frame


def _depth(name: str) -> int:
    from rtlit.frame import PixelFormat

    return PixelFormat(name).depth


def make_clip(
    path: Path,
    steps: Sequence[int] = EVEN_STEPS,
    *,
    time_base: Fraction = Fraction(1, 25),
    size: tuple[int, int] = (64, 48),
    pixels: str = "yuv420p",
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    tags: dict[str, int] | None = None,
    sound: bool = False,
    text: Iterable[tuple[float, float, str]] = (),
    subtitle: str = "mov_text",
    metadata: dict[str, str] | None = None,
    chapters: Sequence[tuple[float, float, str]] = (),
    matrix: Sequence[int] | None = None,
    aspect: Fraction | None = None,
    container: str | None = None,
) -> Path:
    """Write a clip whose frames are shown at `steps` of `time_base`; returns its path."""
    options = {"bf": "2", **({"preset": "ultrafast", "qp": "20"} if codec == "libx264" else {}), **(options or {})}
    with av.open(str(path), "w", format=container) as output:
        video = output.add_stream(codec, rate=Fraction(25), options=options if codec != "ffv1" else {})
        assert isinstance(video, av.VideoStream)
        video.width, video.height, video.pix_fmt = *size, pixels
        video.codec_context.time_base = video.time_base = time_base
        video.codec_context.flags |= av.codec.context.Flags.frame_duration
        for name, value in (tags or {}).items():
            setattr(video.codec_context, name, value)
        if aspect is not None:
            video.codec_context.sample_aspect_ratio = aspect
        if matrix is not None:
            video.set_display_matrix(matrix)
        audio = _add_sound(output) if sound else None
        words = output.add_stream(subtitle) if text else None
        if words is not None:
            words.time_base = Fraction(1, 1000)
            words.codec_context.time_base = Fraction(1, 1000)
            words.codec_context.subtitle_header = ASS_HEADER
            words.metadata["language"] = "fra"
        output.metadata.update(metadata or {})
        output.set_chapters([_chapter(i, *chapter) for i, chapter in enumerate(chapters)])
        _write(output, video, steps, time_base, size, pixels, audio)
        for begin, end, line in text:
            output.mux(_subtitle(words, begin, end, line))
    return path


ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour
Style: Default,Arial,16,&Hffffff

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def _write(
    output: Any, video: Any, steps: Sequence[int], base: Fraction, size: tuple[int, int], pixels: str, audio: Any
) -> None:
    gaps = [*np.diff(steps), max(1, steps[-1] - steps[-2] if len(steps) > 1 else 1)]
    samples = 0
    for index, (step, gap) in enumerate(zip(steps, gaps, strict=True)):
        frame = dim_frame(index, *size, pixels)
        frame.pts, frame.time_base, frame.duration = step, base, int(gap)
        output.mux(video.encode(frame))
        if audio is not None:
            samples = _sound_up_to(output, audio, samples, float((step + gap) * base))
    output.mux(video.encode(None))
    if audio is not None:
        output.mux(audio.encode(None))


def _add_sound(output: Any) -> Any:
    audio = output.add_stream("aac", rate=48000)
    audio.codec_context.layout = "mono"
    audio.metadata["language"] = "deu"
    audio.disposition = av.stream.Disposition.default | av.stream.Disposition.comment
    return audio


def _sound_up_to(output: Any, audio: Any, begin: int, seconds: float) -> int:
    while begin < seconds * 48000:
        wave = np.sin(np.arange(begin, begin + 1024) / 48000 * 2 * np.pi * 440).astype(np.float32)[None] / 4
        frame = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, begin, Fraction(1, 48000)
        output.mux(audio.encode(frame))
        begin += 1024
    return begin


def _chapter(index: int, begin: float, end: float, title: str) -> Any:
    ticks = {"start": round(begin * 1000), "end": round(end * 1000), "time_base": Fraction(1, 1000)}
    return {"id": index + 1, "metadata": {"title": title}, **ticks}


def _subtitle(stream: Any, begin: float, end: float, line: str) -> av.Packet[Any]:
    from av.subtitles.subtitle import SubtitleSet

    dialogue = f"0,0,Default,,0,0,0,,{line}".encode()
    packet = stream.codec_context.encode_subtitle(SubtitleSet.create(dialogue, 0, round(1000 * (end - begin))))
    packet.stream, packet.time_base = stream, Fraction(1, 1000)
    packet.pts = packet.dts = round(1000 * begin)
    packet.duration = round(1000 * (end - begin))
    return packet


def shown(path: Any, index: int = 0, **options: Any) -> list[Fraction]:
    """When each frame of a video stream is shown, in seconds, exactly."""
    with av.open(path if hasattr(path, "read") else str(path), **options) as container:
        return [frame.pts * frame.time_base for frame in container.decode(container.streams[index])]


def pictures(path: Any) -> list[list[NDArray[Any]]]:
    """Planes of all frames of the first video stream."""
    with av.open(path if hasattr(path, "read") else str(path)) as container:
        return [[plane.copy() for plane in planes_of(frame)] for frame in container.decode(video=0)]


def packets(path: Any, kind: str) -> list[tuple[Fraction, str]]:
    """(seconds, hash) of each packet of the streams of a kind."""
    with av.open(path if hasattr(path, "read") else str(path)) as container:
        streams = [s for s in container.streams if s.type == kind]
        found = [p for p in container.demux(streams) if p.size] if streams else []
        return [
            ((p.pts or 0) * p.time_base, hashlib.md5(bytes(p), usedforsecurity=False).hexdigest()) for p in found
        ]


def kinds(path: Any) -> list[tuple[str, str]]:
    """(type, codec) of all streams."""
    with av.open(str(path)) as container:
        return [(s.type, s.codec_context.name if s.codec_context else "") for s in container.streams]
