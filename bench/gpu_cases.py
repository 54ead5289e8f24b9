"""What bench/gpu.py measures on: frames made of a real clip, each kernel's calls on them, the engine fed with them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bench.gpu_timing import Call
from rtlit import reference, weights
from rtlit.backends.choose import Plane
from rtlit.backends.cuda_engine import Engine
from rtlit.backends.streams import Streams, streams_of
from rtlit.denoise import BITS, filter_planes
from rtlit.frame import Color, PixelFormat
from rtlit.network import CurveNetwork, load_network
from rtlit.settings import EnhanceSettings

FRAMES = Path(__file__).parent.parent / "tests" / "data" / "juggler_frames.npz"
COLOR = Color()
FORMATS = {name: PixelFormat(name) for name in ("nv12", "yuv420p", "p010le", "yuv420p10le")}
FPS = 24
_DENOISE = 0.5
_BRIGHTNESS = 0.4  # of the clip
# Differences from the reference that each kernel may have: of tones and shares, of t, of gains, of codes.
_TOLERANCES = {
    "analyze": 1e-4,
    "estimate": 2e-2,
    "restrain": 2e-5,
    "follow": 1e-5,
    "filter_planes": 1.0,
    "apply_curves": 1.0,
}
_TAU = EnhanceSettings.smoothing
Planes = tuple[Tensor, ...]
_Case = tuple[Call, Callable[[], Sequence[Tensor]]]
HostPlanes = tuple[Plane, ...]

_SIZES = {"720p": (720, 1280), "1080p": (1080, 1920), "4K": (2160, 3840), "8K": (4320, 7680)}
_TINY_THUMBNAIL = 32
_TINY = {"720p": (18, 32), "1080p": (27, 48), "4K": (54, 96), "8K": (72, 128)}


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        sizes: name → (height, width).
        samples: of each time.
        frames: of the streamed pipeline.
    """

    device: torch.device
    sizes: dict[str, tuple[int, int]]
    samples: int
    frames: int
    quick: bool = False
    rehearsal: bool = False

    @property
    def network(self) -> CurveNetwork:
        """The one that ships, on the CPU; with a tiny thumbnail in a rehearsal."""
        return _network(_TINY_THUMBNAIL if self.rehearsal else None)

    @classmethod
    def make(cls, quick: bool = False, rehearsal: bool = False) -> Plan:
        """On the GPU, or the tiny one of a rehearsal."""
        if rehearsal:
            return cls(torch.device("cpu"), _TINY, 1, 2, quick, rehearsal)
        return cls(torch.device("cuda", 0), _SIZES, 15 if quick else 40, 300, quick)


@cache
def _network(thumbnail: int | None) -> CurveNetwork:
    network = load_network(weights.DEFAULT)
    if thumbnail:
        network.config = replace(network.config, thumbnail=thumbnail)
    return network


@cache
def clip() -> tuple[list[Planes], list[float]]:
    """Six frames of a real clip, yuv420p codes at 256×144 (BT.709, limited range), and their times in seconds.

    Darkened: as it is, there would be little to lift.
    """
    file = np.load(FRAMES)
    frames = [
        tuple(_darkened(torch.from_numpy(file[name][index]), 16 if name == "y" else 128) for name in "yuv")
        for index in range(len(file["seconds"]))
    ]
    return frames, [float(time) for time in file["seconds"]]


def _darkened(plane: Tensor, zero: int) -> Tensor:
    return (zero + (plane.float() - zero) * _BRIGHTNESS).round().to(torch.uint8)


def enlarged(frame: Planes, pixel_format: PixelFormat, size: tuple[int, int]) -> list[Tensor]:
    """A frame of `clip` at another size and depth: float codes of a format with 4:2:0 chroma, plain whole numbers."""
    shapes = [pixel_format.plane_size(index, *size) for index in range(3)]
    planes = [
        F.interpolate(p[None, None].float(), to, mode="bilinear")[0, 0] for p, to in zip(frame, shapes, strict=True)
    ]
    return [(plane * (1 << (pixel_format.depth - 8)) + 0.5).floor() for plane in planes]


def stored(codes: list[Tensor], pixel_format: PixelFormat, device: torch.device) -> Planes:
    """Float codes as a frame in a device's memory: interleaved chroma as two views of a tensor, P010's bits on top."""
    dtype = torch.uint8 if pixel_format.depth == 8 else torch.uint16
    # On the CPU as int32, here and below: torch has few operations on uint16, and fewer on CUDA.
    words = [plane.cpu().to(torch.int32) << pixel_format.low_bits for plane in codes]
    if not pixel_format.interleaved:
        return tuple(plane.to(dtype).to(device) for plane in words)
    chroma = torch.stack(words[1:], -1).to(dtype).to(device)
    return words[0].to(dtype).to(device), chroma[..., 0], chroma[..., 1]


def whole(planes: Sequence[Tensor]) -> list[Tensor]:
    """Planes as int32 on the CPU."""
    signed = [plane.view(torch.int16) if plane.dtype == torch.uint16 else plane for plane in planes]
    return [plane.cpu().to(torch.int32) & 0xFFFF for plane in signed]


def codes_of(planes: Planes, pixel_format: PixelFormat) -> list[Tensor]:
    """The other way: int32 on the CPU."""
    return [plane >> pixel_format.low_bits for plane in whole(planes)]


def like(planes: Planes) -> Planes:
    """Memory for another frame, laid out in the same way."""
    if planes[-1].stride(-1) == 1:
        return tuple(torch.empty_like(plane) for plane in planes)
    chroma = torch.empty(*planes[1].shape, 2, dtype=planes[1].dtype, device=planes[1].device)
    return torch.empty_like(planes[0]), chroma[..., 0], chroma[..., 1]


def bytes_of(planes: Planes) -> int:
    """Bytes that reading a frame moves."""
    return sum(plane.numel() * plane.element_size() for plane in planes)


def on_host(codes: list[Tensor], pixel_format: PixelFormat) -> HostPlanes:
    """A frame as a decoder leaves it in the host's memory: interleaved chroma is one plane [rows, 2·columns]."""
    planes = [plane.numpy() for plane in stored(codes, pixel_format, torch.device("cpu"))]
    if not pixel_format.interleaved:
        return tuple(planes)
    return planes[0], np.stack(planes[1:], -1).reshape(len(planes[1]), -1)


def codes_on_host(planes: HostPlanes, pixel_format: PixelFormat) -> list[NDArray[np.int32]]:
    """The other way."""
    if pixel_format.interleaved:
        planes = planes[0], planes[1][:, 0::2], planes[1][:, 1::2]
    return [plane.astype(np.int32) >> pixel_format.low_bits for plane in planes]


def host_frames(pixel_format: PixelFormat, size: tuple[int, int], count: int) -> list[HostPlanes]:
    """Frames of the clip, again from its start where it is shorter."""
    frames = [on_host(enlarged(frame, pixel_format, size), pixel_format) for frame in clip()[0][:count]]
    return [frames[index % len(frames)] for index in range(count)]


class WatchedStreams:
    """A device's `Streams` that keep what they capture, for timing by itself.

    Attributes:
        replays: what each captured graph is replayed by.
    """

    def __init__(self, device: torch.device) -> None:
        self._streams = streams_of(device)
        self.replays: list[Call] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._streams, name)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        replay = self._streams.capture(work)
        self.replays.append(replay)
        return replay


def make_engine(plan: Plan, streams: Streams | None = None, *, denoise: float = 0.0, graphs: bool = True) -> Engine:
    """An engine for one video."""
    settings = EnhanceSettings(denoise=denoise)
    return Engine(streams or streams_of(plan.device), plan.network, settings, graphs=graphs)


def play(
    engine: Engine,
    sources: Sequence[HostPlanes],
    pixel_format: PixelFormat,
    *,
    seconds: Sequence[float] | None = None,
    begin: int = 0,
    strength: float = 1.0,
    results: Sequence[HostPlanes] | None = None,
) -> Sequence[HostPlanes]:
    """Frames through an engine, as many in flight as it has room for.

    Args:
        seconds: when each is shown; otherwise at 24 a second, the first as number `begin`.
        results: where the results go, again from its start when it is full; new arrays otherwise.
    """
    if results is None:
        results = [tuple(np.empty_like(plane) for plane in source) for source in sources]
    waiting: deque[Any] = deque()
    for index, source in enumerate(sources):
        out = results[index % len(results)]
        at = seconds[index] if seconds else (begin + index) / FPS
        waiting.append(engine.submit(source, pixel_format, COLOR, at, out, strength=strength))
        if len(waiting) > engine.depth:
            waiting.popleft().wait()
    for ticket in waiting:
        ticket.wait()
    return results


class KernelCases:
    """Calls of each kernel on real frames of one kind, and what the reference makes of the first.

    Attributes:
        names: of the launchers.
        frame_bytes: of one frame.
    """

    names = ("analyze", "estimate", "restrain", "follow", "filter_planes", "apply_curves")

    def __init__(self, plan: Plan, pixel_format: PixelFormat, size: tuple[int, int]) -> None:
        self.device, self.network, self.format, self.size = plan.device, plan.network, pixel_format, size
        device = self.device
        self.codes = [plane.to(device) for plane in enlarged(clip()[0][0], pixel_format, size)]
        self.frame = stored(self.codes, pixel_format, device)
        self.frame_bytes = bytes_of(self.frame)
        self.thumbnail_size = self.network.config.thumbnail_size(*size)
        # The reference sees plain codes: as floats, which all of torch's operations take on every device.
        self.plain = PixelFormat("yuv420p" if pixel_format.depth == 8 else f"yuv420p{pixel_format.depth}le")
        with torch.inference_mode():
            self.thumbnail, self.histogram = reference.analyze(self.codes, self.plain, COLOR, self.thumbnail_size)
            self.estimate = self.network(self.thumbnail[None].cpu())[0].to(device).contiguous()
            self.grid = reference.restrain(self.estimate, self.thumbnail).contiguous()
            # A modest lift, neither dark nor bright parts: a factor between 0 and 1, where the clip's own is 1.
            modest = self.estimate / self.estimate.abs().max().clamp(min=1)
            self.doubtful = modest.contiguous(), self.thumbnail.clamp(2 / 7, 5 / 7)
            self.gain = reference.exponentiate(self.grid, 1.0).contiguous()
        self.last = self.grid + 0.05 * torch.sin(torch.arange(self.grid.numel(), device=device).view_as(self.grid))

    def bytes_moved(self, name: str) -> int:
        """By the least that a launch can read and write: planes; the 16-bit state of the filter; the grid."""
        grid, thumbnail = 4 * self.grid.numel(), 4 * self.thumbnail.numel()
        samples = sum(plane.numel() for plane in self.frame)
        moved = {
            "analyze": self.frame_bytes + thumbnail,
            "estimate": thumbnail + grid + 2 * sum(p.numel() for p in self.network.parameters()),
            "restrain": thumbnail + 2 * grid,
            "follow": 4 * grid,
            "filter_planes": self.frame_bytes + 4 * samples,
            "apply_curves": 2 * self.frame_bytes + grid,
        }
        return int(moved[name])

    def calls(self, name: str, count: int) -> list[Call]:
        """Launches that each have buffers of their own."""
        return [self._call(name)[0] for _ in range(count)]

    def check(self, name: str) -> dict[str, Any]:
        """The largest difference from the reference, and whether it is small enough."""
        with torch.inference_mode():
            call, results = self._call(name)
            call()
            pairs = list(zip(results(), self._wanted(name), strict=True))
            worst = max(float((got.double() - want.double().to(got.device)).abs().max()) for got, want in pairs)
        return {"ok": worst <= _TOLERANCES[name], "worst": worst, "tolerance": _TOLERANCES[name]}

    def _call(self, name: str) -> _Case:
        """A launch on buffers of its own, and what it has written by then: whole codes, or numbers."""
        case: _Case = getattr(self, f"_{name}")()
        return case

    def _analyze(self) -> _Case:
        from rtlit_kernels.analyze import SCRATCH, analyze

        frame = self._copied(self.frame)
        out = torch.empty_like(self.thumbnail), torch.empty_like(self.histogram)
        scratch = torch.zeros(SCRATCH, dtype=torch.int32, device=self.device)
        return partial(analyze, frame, self.format, COLOR, self.thumbnail_size, out=out, scratch=scratch), lambda: out

    def _estimate(self) -> _Case:
        from rtlit_kernels.estimate import estimate, scratch_size

        packed = self._packed()
        thumbnail, out = self.thumbnail.clone(), torch.empty_like(self.grid)
        size = scratch_size(packed, self.thumbnail_size)
        scratch = torch.empty(size, dtype=torch.float16, device=self.device)
        return partial(estimate, thumbnail, packed, out=out, scratch=scratch), lambda: [out]

    def _restrain(self) -> _Case:
        from rtlit_kernels.restrain import SCRATCH, restrain

        out, scratch = torch.empty_like(self.grid), torch.zeros(SCRATCH, dtype=torch.int64, device=self.device)
        grid, thumbnail = (tensor.clone() for tensor in self.doubtful)
        controls = torch.tensor([0.0, 1.0, 0.0, 0.0], device=self.device)
        return partial(restrain, grid, thumbnail, controls, out=out, scratch=scratch), lambda: [out]

    def _follow(self) -> _Case:
        from rtlit_kernels.smooth import State, follow

        state = State.empty(tuple(self.grid.shape), self.device)
        state.grid.copy_(self.last)
        state.histogram.copy_(self.histogram)
        controls = torch.tensor([math.exp(-1 / FPS / _TAU), 1.0, 0.0, 0.0], device=self.device)
        out = torch.empty_like(self.gain)
        return partial(follow, self.grid.clone(), self.histogram.clone(), state, controls, out=out), lambda: [out]

    def _filter_planes(self) -> _Case:
        from rtlit_kernels.denoise import filter_planes

        frame = self._copied(self.frame)
        last = [plane.cpu().to(torch.uint16).to(self.device) for plane in self._last_planes()]
        out = [torch.empty_like(plane) for plane in last]
        return partial(filter_planes, frame, last, self.format, _DENOISE, out=out), lambda: whole(out)

    def _apply_curves(self) -> _Case:
        from rtlit_kernels.apply import apply_curves, scratch_size

        frame, gain, out = self._copied(self.frame), self.gain.clone(), like(self.frame)
        scratch = torch.empty(scratch_size(self.size, gain.shape, self.format, self.device), device=self.device)
        call = partial(apply_curves, frame, gain, self.format, COLOR, out=out, scratch=scratch)
        return call, lambda: codes_of(out, self.format)

    def _wanted(self, name: str) -> Sequence[Tensor]:
        """By the reference."""
        if name == "analyze":
            return self.thumbnail, self.histogram
        if name == "estimate":
            return [self.estimate]
        if name == "restrain":
            return [reference.restrain(*self.doubtful)]
        if name == "follow":
            arguments = (self.grid, self.histogram, self.last, self.histogram, 1 / FPS, _TAU)
            return [reference.exponentiate(reference.smooth(*arguments), 1.0)]
        if name == "filter_planes":
            return filter_planes(self.codes, self._last_planes(), self.plain, _DENOISE)
        lifted = reference.apply_curves(self.codes, self.gain, self.plain, COLOR, rounded=False)
        return [(plane + 0.5).floor().clamp(0, self.plain.max_code) for plane in lifted]

    def _last_planes(self) -> list[Tensor]:
        """What another frame of the clip leaves to this one, as the filter keeps it: float whole numbers."""
        before = enlarged(clip()[0][1], self.format, self.size)
        return [plane.to(self.device) * (1 << (BITS - self.format.depth)) for plane in before]

    def _copied(self, frame: Planes) -> Planes:
        copy = like(frame)
        bits = torch.uint8 if self.format.depth == 8 else torch.int16  # torch has more operations on int16
        for target, source in zip(copy, frame, strict=True):
            target.view(bits).copy_(source.view(bits))
        return copy

    @cache  # noqa: B019 (a process measures a few kinds of frames)
    def _packed(self) -> Any:
        from rtlit_kernels.estimate import pack_network

        state = {name: tensor.to(self.device) for name, tensor in self.network.state_dict().items()}
        return pack_network(state, self.network.config)
