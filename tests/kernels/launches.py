"""Compiles for an H100, without one, what each launcher really passes: prints a line of JSON a launch.

Triton compiles a kernel for the arguments of its launch: an integer that is 1 becomes a constant, None too, pointers
and integers are multiples of 16 or not. The interpreter shows nothing of that, and `VARIANTS` are written by hand. A
stand-in driver lets the launchers run on the CPU's tensors and stops each launch after its compilation.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from rtlit.frame import Color, PixelFormat
from rtlit.network import CurveNetwork
from rtlit_kernels import denoise, launch
from rtlit_kernels.analyze import analyze
from rtlit_kernels.apply import apply_curves
from rtlit_kernels.denoise import filter_planes
from rtlit_kernels.estimate import estimate, pack_network
from rtlit_kernels.restrain import restrain
from rtlit_kernels.smooth import State, exponentiate, follow, smooth
from tests.frames import color_for, random_planes


class StandIn:
    """What Triton asks of a driver before it launches."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def stop_launches() -> None:
    """Launches compile, and say whether they had to."""
    run = JITFunction.run

    def compiled(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        before = sum(len(caches[0]) for caches in self.device_caches.values())
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        after = sum(len(caches[0]) for caches in self.device_caches.values())
        print(json.dumps({"kernel": self.fn.__name__, "compiled": after > before}), flush=True)
        return kernel

    JITFunction.run = compiled


def enhance(name: str, size: tuple[int, int], channels: int = 3) -> None:
    """Every stage of a frame, as the engine launches them: in place, the filter's state written in turn."""
    pixel_format = PixelFormat(name)
    color, planes = color_for(pixel_format, Color()), random_planes(pixel_format, size)
    thumbnail, histogram = analyze(planes, pixel_format, color, (16, 32))
    gain, state = torch.zeros(channels, 8, 2, 4), State.empty((channels, 8, 2, 4), "cpu")
    controls = torch.zeros(4)
    restrain(gain, thumbnail, controls, out=gain)
    follow(gain, histogram, state, controls, out=torch.empty_like(gain))
    old, new = ([torch.empty(plane.shape, dtype=torch.uint16) for plane in planes] for _ in range(2))
    filter_planes(planes, old, pixel_format, 0.5, out=new, fresh=state.cut)
    apply_curves(planes, gain, pixel_format, color, out=planes)
    apply_curves(planes, gain, pixel_format, color, out=planes, filtered=new)


def network(turns: int) -> None:
    """The network that ships, of a picture on its side or not."""
    net = CurveNetwork().eval()
    estimate(torch.zeros(3, 32, 56), pack_network(net.state_dict(), net.config), quarter_turns=turns)


def rest(grid: Tensor, histogram: Tensor) -> None:
    """What the engine launches rarely or never."""
    exponentiate(grid, 1.0, out=grid)
    smooth(grid, histogram, grid, histogram, 0.1, 0.2)
    pixel_format, planes = PixelFormat("nv12"), random_planes(PixelFormat("nv12"), (18, 34))
    filter_planes(planes, None, pixel_format, 0.5)
    filter_planes(planes, filter_planes(planes, None, pixel_format, 0.5), pixel_format, 0.5)


def main() -> None:
    driver.set_active(StandIn())
    stop_launches()
    launch.capability = lambda device: (9, 0)  # type: ignore[assignment]
    # Two rows of pixels to a program of the filter, not 16: it is unrolled, and compiles six times faster.
    denoise.filter_launch = lambda rows, columns: launch.FilterLaunch(rows=2)
    for _ in range(2):  # the second time, as for the next slot's graph, there must be nothing to compile
        enhance("nv12", (48, 64))
    enhance("gray10le", (37, 53), channels=1)
    enhance("gbrp", (16, 32))
    enhance("p010le", (36, 52), channels=1)
    enhance("yuv410p", (37, 53))
    enhance("yuv444p16le", (17, 16))
    network(0)
    network(1)
    rest(torch.zeros(3, 8, 2, 4), torch.zeros(128))


if __name__ == "__main__":
    main()
