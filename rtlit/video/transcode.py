"""enhance_video: decode → enhance → encode in three threads, everything else in the file kept."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rtlit.errors import InputError, RtlitError
from rtlit.settings import Device, EnhanceSettings
from rtlit.video.belt import Belt, Stopped
from rtlit.video.settings import Progress, VideoReport, VideoSettings

if TYPE_CHECKING:
    from rtlit.enhancer import Enhancer
    from rtlit.video.reader import Item, Reader
    from rtlit.video.stage import Stage
    from rtlit.video.writer import Writer

__all__ = ["Progress", "VideoReport", "VideoSettings", "enhance_video"]

# Three frames between two threads smooth out their jitter; at 4K that is 37 MB.
_FRAMES_WAITING = 3
_LEAST_WAITING_BYTES = 8 << 20
_PROGRESS_SECONDS = 0.1
_JOIN_SECONDS = 5.0  # a reader may hang in a pipe that nobody feeds


def enhance_video(
    source: str | Path | BinaryIO,
    target: str | Path | BinaryIO,
    *,
    device: Device = "auto",
    strength: float = 1.0,
    smoothing: float = EnhanceSettings.smoothing,
    estimate_every: int | None = None,
    weights: Path | str | None = None,
    threads: int | None = None,
    denoise: float = 0.0,
    settings: EnhanceSettings | None = None,
    video: VideoSettings | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> VideoReport:
    """Enhance a video; timestamps, sound, subtitles, chapters, tags, rotation and pixel format stay as they were.

    >>> enhance_video("in.mp4", "out.mp4", strength=0.8)

    Args:
        source: a file, or a readable binary stream (Matroska and y4m need no seeking).
        target: a file, or a writable binary stream, which gets Matroska unless `video.output_format` says otherwise.
        device, strength, smoothing, estimate_every, weights, threads, denoise: as for `rtlit.Enhancer`.
        settings: the same as one object, in place of the seven arguments.
        video: codec, part, container and the like.
        on_progress: called up to ten times a second, and at the end.
        on_warning: called with a line for each thing that could not be kept.

    Returns:
        What was done, with timings and the warnings.

    Raises:
        InputError, OutputError, UsageError, WeightsError, DeviceError: one line each; nothing is left behind.
    """
    import av

    from rtlit import files
    from rtlit.enhancer import Enhancer
    from rtlit.reference import MIN_SIZE
    from rtlit.video.formats import muxer_for
    from rtlit.video.hardware import check_decoder, choose_decoder, plan_on_device
    from rtlit.video.probe import reason
    from rtlit.video.reader import Reader
    from rtlit.video.stage import Layout, Stage
    from rtlit.video.trial import choose_plan
    from rtlit.video.writer import Writer

    begin = time.perf_counter()
    video = video or VideoSettings()
    chosen = settings or EnhanceSettings(
        device, strength, smoothing, estimate_every, Path(weights) if weights else None, threads, denoise
    )
    warnings: list[str] = []

    def warn(line: str) -> None:
        if line not in warnings:
            warnings.append(line)
            if on_warning is not None:
                on_warning(line)

    os.environ.setdefault("SVT_LOG", "-1")  # SVT-AV1 writes to stderr by itself
    files.check_target(source, target, video.overwrite)
    hwaccel = choose_decoder(video, chosen.device, warn)
    reader = Reader(source, video, warn, hwaccel)
    try:
        muxer = muxer_for(files.named(target), video, reader.container.format.name)
        first = reader.prime(keep_clock=muxer == "mpegts")
        codec = reader.stream.codec_context.name
        taken = hwaccel is None or check_decoder(video, first, codec, warn)
        if not taken and isinstance(source, (str, Path)):  # a pipe goes on, with one thread to decode
            reader.close()
            reader = Reader(source, video, warn)
            first = reader.prime(keep_clock=muxer == "mpegts")
        if min(first.width, first.height) < MIN_SIZE:
            size = f"{first.width}×{first.height}"
            raise InputError(f"{reader.name}: {size} is too small; each side must be at least {MIN_SIZE} pixels")
        context = reader.stream.codec_context
        layout = Layout(first, video.compare)
        plan = choose_plan(reader, first, layout.coded_size, muxer, video)
        for line in plan.warnings:
            warn(line)
        enhancer = Enhancer(**vars(chosen))
        if enhancer.on_device and not video.compare:
            plan = plan_on_device(plan, first)
        with Writer(target, muxer, reader, first, plan, layout.coded_size, warn) as writer:
            stage = Stage(enhancer, plan, layout, warn, reader.aspect_of)
            _run(reader, stage, writer, on_progress)
            writer.finish()
    except av.error.FFmpegError as error:
        raise InputError(f"{reader.name}: can't be processed: {reason(error)}") from None
    except MemoryError:
        raise RtlitError(f"{reader.name}: needs more memory than there is; try a smaller video") from None
    finally:
        reader.close()
    wall = time.perf_counter() - begin
    frames, stages = writer.frames, _stage_seconds(reader, enhancer, writer)
    return VideoReport(
        input=reader.name,
        output=writer.name,
        frames=frames,
        video_seconds=round(writer.position, 6),
        wall_seconds=round(wall, 3),
        fps=round(frames / wall, 2),
        width=layout.coded_size[0],
        height=layout.coded_size[1],
        pixel_format=plan.pixel_format,
        input_codec=context.codec.canonical_name,
        encoder=plan.name,
        backend=enhancer.choice.backend.name,
        backend_reason=enhancer.choice.reason,
        stage_ms={name: round(1000 * seconds / frames, 3) for name, seconds in stages.items()},
        peak_rss_mb=_peak_rss_mb(),
        skipped_packets=reader.skipped,
        warnings=warnings,
        decoder="NVDEC" if first.format.name == "cuda" else "software",
    )


def _run(reader: Reader, stage: Stage, writer: Writer, on_progress: Callable[[Progress], None] | None) -> None:
    """Reader and stage in threads of their own, the writer in this one; the first error stops all three."""
    from rtlit.video.probe import listening

    capacity = max(_LEAST_WAITING_BYTES, _FRAMES_WAITING * reader.frame_bytes)
    decoded: Belt[Item] = Belt(capacity)
    enhanced: Belt[Item] = Belt(capacity)
    workers = [
        threading.Thread(target=_feed, args=(reader.items(), decoded), name="rtlit-read", daemon=True),
        threading.Thread(target=_feed, args=(stage.items(decoded), enhanced), name="rtlit-enhance", daemon=True),
    ]
    begun: list[threading.Thread] = []
    try:
        for worker in workers:
            begun.append(worker)
            worker.start()  # a signal's exception may come out of it, with the thread under way
        progress = _Ticker(reader, writer, on_progress)
        with listening():  # on and off with each item, it would now and then meet a decoder that has something to say
            for item in enhanced:
                writer.write(item)
                progress.tick()
    finally:
        enhanced.stop()
        decoded.stop()
        reader.abandoned = not all([_ended(worker) for worker in begun])
    progress.tick(last=True)


def _ended(worker: threading.Thread) -> bool:
    """Wait for a thread's end; False for one that still runs, or is only just starting."""
    try:
        worker.join(_JOIN_SECONDS)
    except RuntimeError:
        return False
    return not worker.is_alive()


def _feed(items: Iterable[Item], belt: Belt[Item]) -> None:
    """Put items on a belt until they end, fail or are no longer wanted."""
    try:
        for item in items:
            belt.put(item, sum(plane.buffer_size for plane in item.planes) if hasattr(item, "planes") else item.size)
    except Stopped:
        pass
    except BaseException as error:
        belt.close(error)
    else:
        belt.close()


class _Ticker:
    """Tells the caller how far the video is, not too often."""

    def __init__(self, reader: Reader, writer: Writer, on_progress: Callable[[Progress], None] | None) -> None:
        self._writer, self._on_progress = writer, on_progress
        self._total, self._frames = reader.seconds_total(), reader.frames_total()
        self._origin = float(reader.start - reader.shift)
        self._begin = time.perf_counter()
        self._next = self._begin

    def tick(self, last: bool = False) -> None:
        now = time.perf_counter()
        if self._on_progress is None or (now < self._next and not last):
            return
        self._next = now + _PROGRESS_SECONDS
        frames = self._writer.frames
        done = max(0.0, self._writer.position - self._origin)
        self._on_progress(Progress(frames, done, self._total, self._frames, frames / max(now - self._begin, 1e-9)))


def _stage_seconds(reader: Reader, enhancer: Enhancer, writer: Writer) -> dict[str, float]:
    return {"decode": reader.seconds, **enhancer.stage_seconds, "encode": writer.seconds}


def _peak_rss_mb() -> float:
    """Most memory this process ever held, in MB; 0 where the system doesn't tell."""
    # Linux's ru_maxrss has the peak of the process that started this one in it, until this one exceeds it.
    status = Path("/proc/self/status")
    if status.exists() and (peaks := re.findall(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return round(int(peaks[0]) * 1024 / 1e6, 1)
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)  # bytes on macOS, KiB elsewhere
