"""Enhancer: settings, backend and the state that makes a video steady."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtlit import hdr, reference, weights as shipped
from rtlit.avframe import color_of, new_like, pixel_format_of, planes_of, quarter_turns_of, reformat, to_planar
from rtlit.backends.choose import (
    Backend,
    EngineBackend,
    Filtered,
    Plane,
    available_threads,
    check_size,
    choose_backend,
)
from rtlit.errors import UsageError
from rtlit.frame import Color, PixelFormat
from rtlit.full_resolution import FullResolution, torch_threads
from rtlit.settings import Device, EnhanceSettings
from rtlit.unet import Unet, load_weights

if TYPE_CHECKING:
    import av

    from rtlit.backends.cuda_engine import Engine, Ticket

Picture = TypeVar("Picture", "NDArray[np.uint8]", "NDArray[np.uint16]", "NDArray[np.float32]", "av.VideoFrame")
Stream = tuple[tuple[int, ...], PixelFormat, Color]

_GREY, _RGB = Color("bt709", full_range=True), Color("rgb", full_range=True)


@dataclass
class _State:
    """What a frame leaves to the next of its video."""

    stream: Stream
    pts: float
    histogram: Tensor
    grid: Tensor  # smoothed, of the last frame
    target: Tensor  # the last estimate
    estimated_pts: float
    frames_since: int = 0
    cut: bool = True  # the last frame was the first of its shot
    filtered: Filtered | None = None  # the last frame's planes without noise
    spare: Filtered | None = None  # the memory of those before, for the next


class _Done:
    """The ticket of a frame that is finished."""

    def wait(self) -> list[Tensor]:
        return []


class Enhancer:
    """Lifts what is backlit or under-exposed, in pictures and in the frames of a video.

    >>> enhancer = Enhancer()
    >>> brighter = enhancer(picture)                         # a still: numpy RGB [H, W, 3]
    >>> steady = [enhancer(frame) for frame in container.decode(video=0)]  # av.VideoFrame

    One Enhancer follows one video, in order, from one thread at a time. `strength` and `smoothing` may change between
    frames.

    With weights of the CLIP-LIT U-Net (`rtlit.unet`) it takes stills alone: x / L^strength at full resolution.

    Attributes:
        settings: what it was made with.
        choice: the backend and why it was chosen.
        backend_name: what computes, for people; the backend's name, or how the CLIP-LIT U-Net runs.
        stage_seconds: time spent so far in each of "analyze", "estimate", "smooth", "apply" and, if on, "denoise"; on
            CUDA, the device's in "upload", "compute" and "download", which overlap.
        depth: tickets of `submit` that may wait without holding up the next; 0 where frames are done at once.
        on_device: `submit` takes frames in the GPU's memory.
    """

    def __init__(
        self,
        device: Device = "auto",
        strength: float = 1.0,
        *,
        smoothing: float = EnhanceSettings.smoothing,
        estimate_every: int | None = None,
        weights: Path | str | None = None,
        threads: int | None = None,
        denoise: float = 0.0,
    ) -> None:
        """See `rtlit.settings.EnhanceSettings` for the arguments.

        Raises:
            UsageError: a value out of range. WeightsError: unusable weights. DeviceError: no such device.
        """
        self.settings = EnhanceSettings(
            device, strength, smoothing, estimate_every, Path(weights) if weights else None, threads, denoise
        )
        network = load_weights(self.settings.weights or shipped.DEFAULT)
        self.choice = choose_backend(device, threads)
        self.backend_name = self.choice.backend.name
        self._unet: FullResolution | None = None
        if isinstance(network, Unet):
            on_cuda = device != "cpu" and torch.cuda.is_available()
            where = torch.device("cuda" if on_cuda else "cpu")
            self._unet = FullResolution(network, where, threads or available_threads())
            self.backend_name = self._unet.name
        else:
            # CPUs convolve an eighth faster in this layout; CUDA's kernels read their own.
            self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        stages = ("analyze", "estimate", "smooth", *(["denoise"] if denoise else []), "apply")
        self.stage_seconds = dict.fromkeys(stages, 0.0)
        self._engine: Engine | None = None
        if isinstance(self.choice.backend, EngineBackend) and not self._unet:
            self._engine = self.choice.backend.engine(self.network, self.settings)
            self.stage_seconds = self._engine.seconds
        self.depth, self.on_device = self._engine.depth if self._engine else 0, self._engine is not None
        self.reset()

    @property
    def strength(self) -> float:
        """Factor on the curves, 0 (unchanged) to 2; above 1 what seems lit well is lifted, too."""
        return self.settings.strength

    @strength.setter
    def strength(self, value: float) -> None:
        self.settings = replace(self.settings, strength=value)

    @property
    def smoothing(self) -> float:
        """Time constant of the smoothing over time in seconds."""
        return self.settings.smoothing

    @smoothing.setter
    def smoothing(self, value: float) -> None:
        self.settings = replace(self.settings, smoothing=value)
        if self._engine:
            self._engine.settings = self.settings

    def reset(self) -> None:
        """Forget the video so far; the next frame starts afresh."""
        self._state: _State | None = None
        if self._engine:
            self._engine.reset()

    def __call__(self, picture: Picture, pts_seconds: float | None = None, *, quarter_turns: int = 0) -> Picture:
        """Enhance a picture or the next frame of a video.

        Args:
            picture: numpy R'G'B' [H, W, 3] or grey [H, W], uint8, uint16 (full scale) or float32 (0 … 1), or an
                `av.VideoFrame`. Frames in other than planar formats are converted and back, without loss of depth.
            pts_seconds: when the frame is shown. Frames of a video are smoothed over time by it; a picture
                without it is a still. An `av.VideoFrame` brings its own.
            quarter_turns: by how many quarters of a turn, counterclockwise, the picture is turned when it is
                shown: the network knows people who stand upright. An `av.VideoFrame` brings its own.

        Returns:
            A new picture of the same kind, size and format (planar RGB for a palette).

        Raises:
            UsageError: another kind of array, a frame smaller than 16×16 or in a GPU's memory, or a frame of a video
            for the CLIP-LIT U-Net. DeviceError: not enough memory.
        """
        if self._unet and (pts_seconds is not None or not isinstance(picture, np.ndarray)):
            self._refuse_video()
        if isinstance(picture, np.ndarray):
            return cast(Picture, self._array(picture, pts_seconds, quarter_turns))
        return self._frame(picture, pts_seconds)

    def enhance_planes(
        self,
        planes: tuple[Plane, ...],
        pixel_format: PixelFormat,
        color: Color,
        pts_seconds: float | None,
        out: tuple[Plane, ...],
        quarter_turns: int = 0,
    ) -> None:
        """Enhance one frame's planes into `out` (arrays of the same shapes, which may be `planes`).

        Args:
            planes: [rows, columns] each, uint8 at 8 bits and uint16 above.
            pts_seconds, quarter_turns: as for `__call__`.
        """
        if self._unet:
            self._refuse_video()
        if self._engine:
            strength = self.strength
            self._engine.submit(planes, pixel_format, color, pts_seconds, out, quarter_turns, strength).wait()
            return
        backend = self.choice.backend
        assert isinstance(backend, Backend)
        size = self.network.config.thumbnail_size(*planes[0].shape)
        # The network is too small to share out: two threads gain nothing, and stall where a core is busy.
        with torch_threads(1), torch.inference_mode():
            with self._timed("analyze"):
                codes, histogram = backend.analyze(planes, pixel_format, color, size)
                thumbnail = hdr.to_sdr(torch.from_numpy(codes), color.transfer)
            stream = (planes[0].shape, pixel_format, color)
            grid = self._follow(thumbnail, torch.from_numpy(histogram), stream, pts_seconds, quarter_turns)
            filtered = None
            if self.settings.denoise and pts_seconds is not None:
                with self._timed("denoise"):
                    filtered = self._denoise(planes, pixel_format)
            with self._timed("apply"):
                # Strength first: the grid of an HDR frame isn't quite proportional to it.
                gain = reference.exponentiate(hdr.convert_grid(self.strength * grid, color.transfer), 1)
                backend.apply(planes, gain.numpy(), pixel_format, color, out, filtered)

    def submit(
        self,
        planes: tuple[Plane, ...] | Sequence[Tensor],
        pixel_format: PixelFormat,
        color: Color,
        pts_seconds: float | None,
        out: tuple[Plane, ...] | None,
        quarter_turns: int = 0,
        source_low_bits: int | None = None,
    ) -> Ticket | _Done:
        """Begin `enhance_planes`: the result lies in `out` when the ticket's `wait` returns.

        Until then neither `planes` nor `out` may be touched. Tickets are waited for in order. On the CPU, all is done
        when this returns.

        On CUDA, planes may also be tensors on the device, and with `out` None the result stays there and is what
        `wait` returns; see `rtlit.backends.cuda_engine.Engine.submit`.

        Raises:
            UsageError: a frame smaller than 16×16, or weights of the CLIP-LIT U-Net. DeviceError: not enough memory, or
            the device gave up; `wait` raises it too.
        """
        if self._engine is None:
            assert out is not None and not isinstance(planes[0], Tensor), "the CPU takes arrays"
            self.enhance_planes(cast("tuple[Plane, ...]", planes), pixel_format, color, pts_seconds, out, quarter_turns)
            return _Done()
        return self._engine.submit(
            planes, pixel_format, color, pts_seconds, out, quarter_turns, self.strength, source_low_bits
        )

    def _denoise(self, planes: tuple[Plane, ...], pixel_format: PixelFormat) -> Filtered:
        """The frame without its noise, remembered for the next; the frame itself where a shot begins."""
        state = self._state
        assert state is not None, "a frame of a video leaves a state"
        out = state.spare or tuple(np.empty(plane.shape, np.uint16) for plane in planes)
        last = None if state.cut else state.filtered
        backend = self.choice.backend
        assert isinstance(backend, Backend)
        backend.denoise(planes, last, pixel_format, self.settings.denoise, out)
        state.filtered, state.spare = out, state.filtered
        return out

    def _refuse_video(self) -> NoReturn:
        what = "weights of the CLIP-LIT U-Net, which is for pictures alone (seconds a frame)"
        raise UsageError(f"{self.settings.weights}: {what}; take a curve network's weights for video")

    def _follow(self, thumbnail: Tensor, histogram: Tensor, stream: Stream, pts: float | None, turns: int) -> Tensor:
        """The grid for this frame: its own for a still, the smoothed one for a frame of a video."""
        last = self._state
        if pts is None:
            return self._estimate(thumbnail, turns)
        if last is None or last.stream != stream or pts < last.pts:
            grid = self._estimate(thumbnail, turns)
            self._state = _State(stream, pts, histogram, grid, grid, pts)
            return grid
        last.frames_since += 1
        last.cut = bool(reference.is_cut(histogram, last.histogram))
        if self._due(last, pts) or last.cut:
            last.target, last.estimated_pts, last.frames_since = self._estimate(thumbnail, turns), pts, 0
        with self._timed("smooth"):
            elapsed, tau = pts - last.pts, self.settings.smoothing
            last.grid = reference.smooth(last.target, histogram, last.grid, last.histogram, elapsed, tau)
        last.histogram, last.pts = histogram, pts
        return last.grid

    def _due(self, last: _State, pts: float) -> bool:
        if self.settings.estimate_every is not None:
            return last.frames_since >= self.settings.estimate_every
        # A millisecond of slack: 15 Hz of a 30 fps video must not slip to every third frame.
        return pts - last.estimated_pts >= 1 / self.choice.backend.estimates_per_second - 1e-3

    def _estimate(self, thumbnail: Tensor, turns: int) -> Tensor:
        with self._timed("estimate"):
            upright = torch.rot90(thumbnail, turns, (-2, -1))
            return torch.rot90(self.network.estimate(upright[None], self.strength)[0], -turns, (-2, -1))

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.stage_seconds[stage] += time.perf_counter() - began

    def _frame(self, frame: av.VideoFrame, pts: float | None) -> av.VideoFrame:
        if pts is None and frame.pts is not None and frame.time_base:
            pts = float(frame.pts * frame.time_base)
        source = to_planar(frame)
        result = new_like(frame) if source is frame else source
        self.enhance_planes(
            planes_of(source),
            pixel_format_of(source),
            color_of(source),
            pts,
            planes_of(result),
            quarter_turns_of(frame),
        )
        # A palette's colours were never those of the result: swscale writes no palettes.
        return result if source is frame or frame.format.has_palette else reformat(result, frame.format.name)

    def _array(self, picture: NDArray[np.generic], pts: float | None, turns: int) -> NDArray[np.generic]:
        if picture.ndim != 2 and picture.shape[2:] != (3,):
            raise UsageError(f"a picture must be RGB [H, W, 3] or grey [H, W], not {list(picture.shape)}")
        if picture.dtype == np.float32:
            return self._float_array(cast("NDArray[np.float32]", picture), pts, turns)
        depth = {"uint8": "", "uint16": "16le"}.get(picture.dtype.name)
        if depth is None:
            raise UsageError(f"a picture must be of uint8, uint16 or float32 (0 … 1), not {picture.dtype}")
        if self._unet:
            check_size(*picture.shape[:2])
            return self._unet(cast("NDArray[np.uint8]", picture), self.strength, turns)
        if picture.ndim == 2:
            planes: tuple[Plane, ...] = (cast(Plane, picture.copy()),)
            self.enhance_planes(planes, PixelFormat(f"gray{depth}"), _GREY, pts, planes, turns)
            return planes[0]
        planes = tuple(cast(Plane, picture[..., i].copy()) for i in (1, 2, 0))
        self.enhance_planes(planes, PixelFormat(f"gbrp{depth}"), _RGB, pts, planes, turns)
        return np.stack([planes[2], planes[0], planes[1]], -1)

    def _float_array(self, picture: NDArray[np.float32], pts: float | None, turns: int) -> NDArray[np.float32]:
        """Adds the difference of 16-bit codes, so that strength 0 is exact and tones beyond 0 … 1 stay."""
        codes = np.rint(np.nan_to_num(picture).clip(0, 1) * 65535).astype(np.uint16)
        lifted = cast("NDArray[np.uint16]", self._array(codes, pts, turns))
        result: NDArray[np.float32] = picture + (lifted.astype(np.float32) - codes) / np.float32(65535)
        return result.clip(np.minimum(picture, 0), np.maximum(picture, 1))
