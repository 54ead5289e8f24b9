"""Times the enhancement by itself, behind a camera, and in a whole video."""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import torch

from rtlit import reference, weights as shipped
from rtlit.avframe import color_of, new_like, pixel_format_of, planes_of
from rtlit.backends.choose import choose_backend
from rtlit.benchmark.scene import FPS, Scene
from rtlit.enhancer import Enhancer
from rtlit.errors import DeviceError, RtlitError
from rtlit.files import url_of
from rtlit.live.pipeline import as_live
from rtlit.network import load_network
from rtlit.settings import Device
from rtlit.video.settings import Progress, VideoSettings
from rtlit.video.transcode import enhance_video

SIZES = {"480p": (854, 480), "720p": (1280, 720), "1080p": (1920, 1080), "4K": (3840, 2160)}
# Codes of 8 bits from the reference. The GPU's network works in half precision.
WORST_CODES = {"cpu": 1, "cuda": 2}
_WARM_UP = 3
_LEAST_CALLS = 3
_LEAST_FRAMES, _MOST_FRAMES = 12, 300  # of the clip
_FRAMES = 4  # that are enhanced in turns, so that the caches hold none of the next
_PARTS = {"decode": ("decode",), "copies": ("upload", "download"), "encode": ("encode",)}


@dataclass(frozen=True)
class Speed:
    """What one size came to on one backend.

    Attributes:
        device: "cpu" or "cuda"; `backend` is its name for people.
        enhance_fps: frames a second of the enhancement alone, from planes in memory to planes in memory.
        live_fps: of what a camera sends (MJPEG), decoded and enhanced one after the other; showing it isn't in it.
        video_fps: of `rtlit enhance-video` on a clip, from its first frame to the complete file.
        shares: of the time in a video's frame: "decode", "enhance", "encode", and on CUDA "copies" to and from the GPU,
            as far as the stages wait for them; they work at the same time.
        encoder: FFmpeg's name of it. decoder: "software" or "NVDEC".
        peak_rss_mb: most memory that the process held so far, in MB; 0 where the system doesn't say.
        peak_gpu_mb: most of the GPU's memory that torch held for this size, in MB; 0 on the CPU.
    """

    size: str
    width: int
    height: int
    device: str
    backend: str
    enhance_fps: float
    live_fps: float
    video_fps: float
    shares: dict[str, float]
    encoder: str
    decoder: str
    peak_rss_mb: float
    peak_gpu_mb: float = 0.0

    @property
    def limit(self) -> str:
        """What takes the largest share of a video."""
        return max(self.shares, key=lambda part: self.shares[part])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"limit": self.limit}


def devices(asked: Device) -> list[Literal["cpu", "cuda"]]:
    """What to measure: the CPU, and CUDA if it is there, or the one that is asked for.

    Raises:
        DeviceError: CUDA is asked for and isn't there.
    """
    if asked == "auto":
        try:
            return ["cpu", *devices("cuda")]
        except DeviceError:
            return ["cpu"]
    choose_backend(asked)
    return [asked]


def measure(
    sizes: Sequence[str],
    asked: Device = "auto",
    seconds: float = 2.0,
    *,
    threads: int | None = None,
    codec: str | None = None,
    on_step: Callable[[str], None] = lambda words: None,
) -> Iterator[Speed]:
    """Measure sizes one after another, each on all devices.

    Args:
        sizes: keys of `SIZES`, the smallest first if memory is to mean something.
        asked: as for `devices`.
        seconds: for each of the three measurements, roughly.
        codec: of the whole video, as `VideoSettings` has it.
        on_step: told what comes next.

    Raises:
        RtlitError: a result is wrong, and nothing is timed. DeviceError, OutputError: as elsewhere.
    """
    chosen = devices(asked)
    with tempfile.TemporaryDirectory(prefix="rtlit-benchmark-") as folder:
        for size in sizes:
            on_step(f"{size}: making a scene")
            scene = Scene(*SIZES[size])
            clip = Path(folder) / f"{size}.mp4"
            write_clip(clip, scene, seconds)
            for device in chosen:
                on_step(f"{size}, {device}: checking")
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                enhancer = Enhancer(device, threads=threads)
                frames = [scene.frame(index) for index in range(max(_FRAMES, enhancer.depth + 1))]
                check(enhancer, frames[0], WORST_CODES[device])
                on_step(f"{size}, {device}: the enhancement alone")
                alone = _rate(_alone(enhancer, frames), seconds)
                on_step(f"{size}, {device}: a camera")
                live = _rate(_live(enhancer, frames), seconds)
                backend = enhancer.backend_name
                del enhancer, frames
                on_step(f"{size}, {device}: a video")
                rest = _video(clip, device, threads, codec)
                if device == "cuda":
                    rest["peak_gpu_mb"] = round(torch.cuda.max_memory_reserved() / 1e6, 1)
                yield Speed(size, *SIZES[size], device, backend, round(alone, 2), round(live, 2), **rest)
            clip.unlink()


def check(enhancer: Enhancer, frame: av.VideoFrame, worst: int) -> None:
    """Compare a frame, enhanced as a still, with the reference.

    Raises:
        RtlitError: a code differs by more than `worst`.
    """
    planes, pixels, color = planes_of(frame), pixel_format_of(frame), color_of(frame)
    result = planes_of(new_like(frame))
    enhancer.enhance_planes(planes, pixels, color, None, result)
    tensors = [torch.from_numpy(plane.copy()) for plane in planes]
    network = load_network(shipped.DEFAULT)
    with torch.inference_mode():
        thumbnail, _ = reference.analyze(tensors, pixels, color, network.config.thumbnail_size(*planes[0].shape))
        grid = network.estimate(thumbnail[None], enhancer.strength)[0]
        gain = reference.exponentiate(grid, enhancer.strength)
        wanted = reference.apply_curves(tensors, gain, pixels, color)
    pairs = zip(result, wanted, strict=True)
    difference = max(int(np.abs(got.astype(np.int32) - want.numpy().astype(np.int32)).max()) for got, want in pairs)
    if difference > worst:
        name = f"{enhancer.backend_name}: a frame of {frame.width}×{frame.height}"
        raise RtlitError(f"{name} is {difference} codes from the reference; nothing was timed, please report it")


def _rate(work: Callable[[int], None], seconds: float) -> float:
    """Calls a second of work(0), work(1) …"""
    for index in range(_WARM_UP):
        work(index)
    calls, begin = 0, time.perf_counter()
    while calls < _LEAST_CALLS or time.perf_counter() - begin < seconds:
        work(_WARM_UP + calls)
        calls += 1
    return calls / (time.perf_counter() - begin)


def _alone(enhancer: Enhancer, frames: Sequence[av.VideoFrame]) -> Callable[[int], None]:
    """Enhances the frames of a video, as many at a time as the backend takes."""
    enhancer.reset()
    pixels, color = pixel_format_of(frames[0]), color_of(frames[0])
    pairs = [(planes_of(frame), planes_of(new_like(frame))) for frame in frames]
    under_way: deque[Any] = deque()

    def work(index: int) -> None:
        planes, out = pairs[index % len(pairs)]
        under_way.append(enhancer.submit(planes, pixels, color, index / FPS, out))
        if len(under_way) > enhancer.depth:
            under_way.popleft().wait()

    return work


def _live(enhancer: Enhancer, frames: Sequence[av.VideoFrame]) -> Callable[[int], None]:
    """Does for a camera's packet what `rtlit webcam` does, up to the frame that is to be shown."""
    enhancer.reset()
    packets = _mjpeg(frames)
    decoder = av.CodecContext.create("mjpeg", "r")
    assert isinstance(decoder, av.VideoCodecContext)

    def work(index: int) -> None:
        (frame,) = decoder.decode(packets[index % len(packets)])
        before = as_live(frame)
        pixels, color, out = pixel_format_of(before), color_of(before), planes_of(new_like(before))
        enhancer.enhance_planes(planes_of(before), pixels, color, index / FPS, out)

    return work


def _mjpeg(frames: Sequence[av.VideoFrame]) -> list[av.Packet[Any]]:
    """The frames as most cameras send them: JPEG of full range, 4:2:2."""
    encoder = av.CodecContext.create("mjpeg", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = frames[0].width, frames[0].height, "yuvj422p"
    encoder.time_base, encoder.options = Fraction(1, FPS), {"qmin": "4", "qmax": "4"}
    packets = [packet for frame in frames for packet in encoder.encode(frame.reformat(format="yuvj422p"))]
    return [*packets, *encoder.encode(None)]


def write_clip(path: Path, scene: Scene, seconds: float) -> None:
    """Write a clip of the scene, as long as it gets in the time."""
    begin = time.perf_counter()
    with av.open(url_of(path), "w") as output:
        name = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream = output.add_stream(name, rate=FPS, options={"crf": "23", "preset": "ultrafast"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = scene.width, scene.height, "yuv420p"
        for index in range(_MOST_FRAMES):
            if index >= _LEAST_FRAMES and time.perf_counter() - begin > seconds / 2:
                break
            output.mux(stream.encode(scene.frame(index)))
        output.mux(stream.encode(None))


def _video(clip: Path, device: Device, threads: int | None, codec: str | None) -> dict[str, Any]:
    """`rtlit enhance-video`, without the start of Python and of the network."""
    begin, before = 0.0, 0

    def tick(progress: Progress) -> None:
        nonlocal begin, before
        if not begin:
            begin, before = time.perf_counter(), progress.frames

    settings = VideoSettings(codec=codec, overwrite=True)
    result = clip.with_suffix(".mkv")  # which holds what any encoder makes
    report = enhance_video(clip, result, device=device, threads=threads, video=settings, on_progress=tick)
    rate = (report.frames - before) / (time.perf_counter() - begin)
    result.unlink()
    parts = {name: sum(report.stage_ms.get(stage, 0.0) for stage in stages) for name, stages in _PARTS.items()}
    parts["enhance"] = sum(report.stage_ms.values()) - sum(parts.values())
    shares = {name: round(ms / sum(parts.values()), 3) for name, ms in parts.items() if ms}
    told = {"encoder": report.encoder, "decoder": report.decoder, "peak_rss_mb": report.peak_rss_mb}
    return {"video_fps": round(rate, 2), "shares": shares, **told}
