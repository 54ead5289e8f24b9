"""The CPU backend against the reference, which is the specification; and how a backend is chosen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rtlit import reference
from rtlit.backends.choose import Backend, Plane, choose_backend
from rtlit.backends.cpu import CpuBackend
from rtlit.errors import DeviceError, UsageError
from rtlit.frame import Color, PixelFormat
from tests.frames import COLORS, FORMATS, SIZES, color_for, random_grid, random_planes

# One code: both compute in float32, in another order. Where a tone lies beside a bin's border, or the gain falls from
# e⁴ to e⁻⁴ from bin to bin, the reference itself is one code away from its own result in float64.
TOLERANCE = 1
ONE, TWO = CpuBackend(1), CpuBackend(2)

formats = pytest.mark.parametrize("name", FORMATS)
sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[1]}x{size[0]}")
backends = pytest.mark.parametrize("backend", [ONE, TWO], ids=lambda backend: backend.name)


def arrays(name: str, size: tuple[int, int], seed: int = 0) -> tuple[Plane, ...]:
    return tuple(plane.numpy() for plane in random_planes(PixelFormat(name), size, seed=seed))


def gains(**shape: int) -> NDArray[np.float32]:
    return reference.exponentiate(random_grid(1, **shape)[0], 1).numpy()


def expected(planes: tuple[Plane, ...], gain: NDArray[np.float32], name: str, color: Color) -> list[NDArray[np.int64]]:
    tensors = [torch.from_numpy(plane.copy()) for plane in planes]
    lifted = reference.apply_curves(tensors, torch.from_numpy(gain), PixelFormat(name), color)
    return [plane.numpy().astype(np.int64) for plane in lifted]


def applied(
    backend: Backend, planes: tuple[Plane, ...], gain: NDArray[np.float32], name: str, color: Color
) -> list[Plane]:
    out = tuple(np.empty_like(plane) for plane in planes)
    backend.apply(planes, gain, PixelFormat(name), color, out)
    return list(out)


def assert_close(result: list[Plane], wanted: list[NDArray[np.int64]]) -> None:
    for plane, (got, want) in enumerate(zip(result, wanted, strict=True)):
        distance = np.abs(got.astype(np.int64) - want)
        assert distance.max() <= TOLERANCE, f"plane {plane}"
        assert (distance > 0).sum() <= max(4, 0.02 * distance.size), f"plane {plane}: too often one code away"


@backends
@formats
@sizes
def test_apply_is_within_one_code_of_the_reference(backend: Backend, name: str, size: tuple[int, int]) -> None:
    pixel_format = PixelFormat(name)
    colors = {color_for(pixel_format, color) for color in COLORS}
    planes, gain = arrays(name, size), gains()
    for color in colors:
        assert_close(applied(backend, planes, gain, name, color), expected(planes, gain, name, color))


@backends
@formats
@sizes
def test_gain_one_changes_nothing(backend: Backend, name: str, size: tuple[int, int]) -> None:
    """Codes outside video levels included."""
    planes, gain = arrays(name, size), np.ones((3, 8, 9, 16), np.float32)
    result = applied(backend, planes, gain, name, color_for(PixelFormat(name), Color("bt709")))
    assert all(np.array_equal(got, want) for got, want in zip(result, planes, strict=True))


@pytest.mark.parametrize(
    "grid",
    [
        {"channels": 1},
        {"bins": 2},
        {"bins": 5, "channels": 1},
        {"rows": 1},
        {"columns": 1},
        {"rows": 16, "columns": 40},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["yuv420p", "yuv422p10le"])
def test_grids_of_other_sizes(grid: dict[str, int], name: str) -> None:
    planes, gain = arrays(name, (37, 53)), gains(**grid)
    assert_close(applied(TWO, planes, gain, name, Color()), expected(planes, gain, name, Color()))


@pytest.mark.parametrize("name", ["yuv420p", "yuv444p12le", "gray"])
def test_a_large_frame(name: str) -> None:
    """Wider than a strip, a segment and a vector, and none of them a whole number of times."""
    planes, gain = arrays(name, (359, 1021)), gains()
    assert_close(applied(TWO, planes, gain, name, Color()), expected(planes, gain, name, Color()))


@pytest.mark.parametrize("name", ["yuv420p", "yuv422p10le", "yuv410p"])
def test_results_do_not_hang_on_threads(name: str) -> None:
    planes, gain = arrays(name, (131, 77)), gains()
    many = applied(CpuBackend(3), planes, gain, name, Color())
    assert all(map(np.array_equal, many, applied(ONE, planes, gain, name, Color())))


def padded(plane: Plane) -> Plane:
    """The same codes with other ones after every line, as FFmpeg's line sizes have it."""
    wide = np.full((plane.shape[0], plane.shape[1] + 13), 77, plane.dtype)
    wide[:, : plane.shape[1]] = plane
    return wide[:, : plane.shape[1]]


def interleaved(plane: Plane) -> Plane:
    return np.repeat(plane[..., None], 3, 2)[..., 1]


def upside_down(plane: Plane) -> Plane:
    return np.ascontiguousarray(plane[::-1])[::-1]


def read_only(plane: Plane) -> Plane:
    frozen = plane.copy()
    frozen.flags.writeable = False
    return frozen


@backends
@pytest.mark.parametrize("layout", [padded, interleaved, upside_down, read_only])
@pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le", "gray"])
def test_memory_layouts(backend: Backend, layout: object, name: str) -> None:
    planes, gain = arrays(name, (37, 53)), gains()
    wanted = applied(backend, planes, gain, name, Color())
    laid = tuple(layout(plane) for plane in planes)  # type: ignore[operator]
    out = laid if layout is not read_only else tuple(np.empty_like(plane) for plane in planes)
    thumbnail, _ = backend.analyze(laid, PixelFormat(name), Color(), (16, 24))
    assert np.array_equal(thumbnail, backend.analyze(planes, PixelFormat(name), Color(), (16, 24))[0])
    backend.apply(laid, gain, PixelFormat(name), Color(), out)  # in place where it can be
    assert all(map(np.array_equal, out, wanted))
    if layout is padded:
        assert all((plane.base[:, plane.shape[1] :] == 77).all() for plane in out if plane.base is not None)


@backends
@formats
@sizes
@pytest.mark.parametrize("thumbnail", [(16, 24), (72, 128)], ids=str)
def test_analyze_is_the_reference(
    backend: Backend, name: str, size: tuple[int, int], thumbnail: tuple[int, int]
) -> None:
    """Sizes below and above the frame's, and none that divides it."""
    pixel_format = PixelFormat(name)
    color = color_for(pixel_format, Color("bt601", full_range=name.startswith("yuvj")))
    planes = arrays(name, size, seed=3)
    got = backend.analyze(planes, pixel_format, color, thumbnail)
    want = reference.analyze([torch.from_numpy(plane) for plane in planes], pixel_format, color, thumbnail)
    # Float32 sums in another order.
    np.testing.assert_allclose(got[0], want[0].numpy(), rtol=0, atol=2e-6)
    np.testing.assert_allclose(got[1], want[1].numpy(), rtol=0, atol=2e-6)


@backends
def test_too_small_a_frame_is_said(backend: Backend) -> None:
    with pytest.raises(UsageError, match="15×64 is too small"):
        backend.analyze(arrays("yuv420p", (64, 15)), PixelFormat("yuv420p"), Color(), (16, 16))


def test_choice_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_backend("cpu", 3).reason == "asked for"
    assert choose_backend("cpu", 3).backend.name == "numba on 3 CPU threads"
    assert torch.__version__ in choose_backend("auto").reason
    with pytest.raises(DeviceError, match="use device cpu"):
        choose_backend("cuda")


def test_kernels_run_without_any_cache_directory(tmp_path: Path) -> None:
    """Neither the package's directory nor the user's cache can be written: compiled anew, and correct."""
    script = (
        "import numba.core.caching as caching, numpy as np\n"
        "caching.CacheImpl._locator_classes = []\n"
        "from rtlit.backends.cpu import CpuBackend\n"
        "from rtlit.frame import Color, PixelFormat\n"
        "planes = (np.full((16, 16), 100, np.uint8),)\n"
        "print(CpuBackend(1).analyze(planes, PixelFormat('gray'), Color('bt709', True), (8, 8))[0].mean())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert float(run.stdout) == pytest.approx(100 / 255, abs=1e-6), run.stderr
