"""The CUDA engine against the CPU path, frame by frame: on the GPU where there is one, else in Triton's interpreter.

In the interpreter lanes, events and graphs are no-ops, and everything else is what a GPU runs. It takes seconds a
frame, so tests that are about more than the kernels take the reference in place of the slow ones there (`quick`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

if find_spec("triton") is None and sys.platform != "linux":
    pytest.skip(f"no triton for {sys.platform}", allow_module_level=True)

from tests.kernels.conftest import CUDA  # before triton: chooses its interpreter where there is no GPU

# isort: split
from rtlit import denoise, hdr, reference
from rtlit.backends import cuda, cuda_engine, streams
from rtlit.backends.choose import BackendChoice, Plane, choose_backend
from rtlit.backends.cuda_engine import Engine
from rtlit.enhancer import Enhancer
from rtlit.errors import DeviceError, UsageError
from rtlit.frame import Color, PixelFormat
from rtlit.network import CurveNetwork, NetworkConfig, save_network
from rtlit.settings import EnhanceSettings
from rtlit_kernels.estimate import estimate, pack_network

Planes = tuple[Plane, ...]

DEVICE = torch.device("cuda" if CUDA else "cpu")
FRAMES = Path(__file__).parent / "data" / "juggler_frames.npz"
# The CPU backend and the kernels are within one code of the reference each, by rounding in another order.
TOLERANCE = 1


class FakeBackend:
    """The CUDA backend on whichever device the tests have."""

    name, estimates_per_second = "kernels", float("inf")

    def engine(self, network: CurveNetwork, settings: EnhanceSettings) -> Engine:
        return Engine(streams.streams_of(DEVICE), network, settings)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter, the reference where kernels would take seconds."""

    def copy(results: Sequence[torch.Tensor], out: Sequence[torch.Tensor]) -> None:
        for result, target in zip(results, out, strict=True):
            target.copy_(result)

    def analyze(*arguments: Any, out: Any, scratch: Any) -> None:
        copy(reference.analyze(*arguments), out)

    def filter_planes(planes: Any, last: Any, pixel_format: Any, amount: float, *, fresh: Any, out: Any) -> None:
        copy(denoise.filter_planes(planes, None if fresh.item() else last, pixel_format, amount), out)

    def apply_curves(
        planes: Any, gain: Any, pixel_format: Any, color: Any, *, filtered: Any, out: Any, **_: Any
    ) -> None:
        unit = 2.0 ** (pixel_format.depth - denoise.BITS)
        clean = None if filtered is None else [plane.float() * unit for plane in filtered]
        copy(reference.apply_curves(planes, gain, pixel_format, color, filtered=clean), out)

    if not CUDA:
        for launcher in (analyze, filter_planes, apply_curves):
            monkeypatch.setattr(cuda_engine, launcher.__name__, launcher)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network whose estimate differs from picture to picture, and is believed in part."""
    torch.manual_seed(0)
    network = CurveNetwork(NetworkConfig(thumbnail=32, width=32, blocks=1))
    torch.nn.init.normal_(network.head.weight, std=0.3)
    torch.nn.init.constant_(network.head.bias, 1.0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_network(network, path)
    return path


@dataclass
class Pair:
    """The engine's enhancer, and the CPU's with the estimates of the engine's kernel, which tests/kernels compares."""

    engine: Enhancer
    cpu: Enhancer

    def settle(self, strength: float) -> None:
        self.engine.strength = self.cpu.strength = strength


@pytest.fixture
def make(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def pair(**settings: Any) -> Pair:
        cpu = Enhancer("cpu", weights=weights, threads=1, **{"estimate_every": 1, **settings})
        packed = pack_network({k: v.to(DEVICE) for k, v in cpu.network.state_dict().items()}, cpu.network.config)
        cpu._estimate = lambda thumbnail, turns: reference.restrain(  # type: ignore[method-assign]
            estimate(thumbnail.to(DEVICE), packed, quarter_turns=turns).cpu(), thumbnail, cpu.strength
        )
        with monkeypatch.context() as patch:
            patch.setattr("rtlit.enhancer.choose_backend", lambda *_: BackendChoice(FakeBackend(), "for tests"))
            return Pair(Enhancer("cuda", weights=weights, **settings), cpu)

    return pair


def frames(width: int = 96, height: int = 64, name: str = "yuv420p", count: int = 6) -> Iterator[tuple[Planes, float]]:
    """Cuttings of a real clip, and when they are shown; the last two come after a pause, on to another scene."""
    pixel_format = PixelFormat(name)
    data = np.load(FRAMES)
    for index in range(count):
        planes = []
        for plane, key in enumerate("yuv"):
            rows, columns = pixel_format.plane_size(plane, height, width)
            source = data[key][index % 6]
            codes = np.resize(source, (max(rows, source.shape[0]), source.shape[1]))[:rows, :columns]
            shifted = codes.astype(np.uint8 if pixel_format.depth == 8 else np.uint16) << (pixel_format.depth - 8)
            planes.append(np.ascontiguousarray(255 - shifted if index % 6 == 5 and plane == 0 else shifted))
        yield tuple(planes), float(data["seconds"][index % 6])


def enhanced(enhancer: Enhancer, planes: Planes, name: str, color: Color, pts: float | None, turns: int = 0) -> Planes:
    out = tuple(np.empty_like(plane) for plane in planes)
    enhancer.enhance_planes(planes, PixelFormat(name), color, pts, out, turns)
    return out


def stored(planes: Planes, name: str) -> Planes:
    """Planar codes as a format with interleaved chroma stores them: Y and UV."""
    luma, blue, red = (plane << PixelFormat(name).low_bits for plane in planes)
    return luma, np.stack([blue, red], -1).reshape(len(blue), -1)


def assert_close(result: Sequence[NDArray[Any]], wanted: Sequence[NDArray[Any]], tolerance: int = TOLERANCE) -> None:
    for plane, (got, want) in enumerate(zip(result, wanted, strict=True)):
        assert got.shape == want.shape and got.dtype == want.dtype
        assert np.abs(got.astype(int) - want.astype(int)).max() <= tolerance, f"plane {plane}"


def changes(result: Planes, planes: Planes) -> bool:
    return any(np.abs(a.astype(int) - b.astype(int)).max() > 3 for a, b in zip(result, planes, strict=True))


def test_kernels_on_a_clip_with_a_cut_and_changes_of_strength(make: Any) -> None:
    """The fourth frame is another shot's; strength 0 is the identity."""
    pair = make()
    clip = list(frames(48, 32))
    for (planes, pts), strength in zip([*clip[:3], clip[5]], [1.0, 0.5, 0.0, 2.0], strict=True):
        pair.settle(strength)
        got, want = (enhanced(each, planes, "yuv420p", Color(), pts) for each in (pair.engine, pair.cpu))
        assert_close(got, want)
        assert changes(got, planes) if strength else all(map(np.array_equal, got, planes))


def test_kernels_on_interleaved_chroma_without_noise(make: Any) -> None:
    """Of an odd size, two frames, the second on the filter's state."""
    pair = make(denoise=0.5)
    for planes, pts in frames(35, 33, "yuv420p10le", count=2):
        want = stored(enhanced(pair.cpu, planes, "yuv420p10le", Color(), pts), "p010le")
        got = enhanced(pair.engine, stored(planes, "p010le"), "p010le", Color(), pts)
        assert_close(got, want, 1 << 6)


def test_the_cut_is_seen_on_the_device(make: Any, quick: None) -> None:
    pair = make()
    flags = []
    for planes, pts in frames():
        enhanced(pair.engine, planes, "yuv420p", Color(), pts)
        enhanced(pair.cpu, planes, "yuv420p", Color(), pts)
        (plan,) = pair.engine._engine._plans.values()
        flags.append((int(plan.state.smooth.cut), pair.cpu._state.cut))
    assert [bool(a) for a, _ in flags] == [b for _, b in flags]
    assert [a for a, _ in flags].count(1) == 2  # the first frame, and the last


@pytest.mark.parametrize(
    ("name", "size", "color"),
    [
        ("yuv420p10le", (50, 38), Color("bt2020", False, "pq")),
        ("yuv420p10le", (48, 32), Color("bt2020", False, "hlg")),
        ("yuv422p", (51, 37), Color("bt601", True)),
        ("yuv444p12le", (33, 17), Color()),
    ],
    ids=str,
)
def test_formats_and_odd_sizes(make: Any, quick: None, name: str, size: tuple[int, int], color: Color) -> None:
    pair = make()
    for planes, pts in frames(*size, name, count=2):
        got, want = (enhanced(each, planes, name, color, pts) for each in (pair.engine, pair.cpu))
        assert_close(got, want, TOLERANCE if color.transfer == "sdr" else 2 * TOLERANCE)
        assert changes(got, planes)


@pytest.mark.parametrize(("name", "planar"), [("nv12", "yuv420p"), ("p010le", "yuv420p10le")])
@pytest.mark.parametrize("size", [(48, 32), (49, 35)], ids=str)
def test_interleaved_chroma(make: Any, quick: None, name: str, planar: str, size: tuple[int, int]) -> None:
    """As two planes and as three views."""
    pair = make()
    for planes, pts in frames(*size, planar, count=2):
        want = stored(enhanced(pair.cpu, planes, planar, Color(), pts), name)
        luma, chroma = stored(planes, name)
        assert_close(enhanced(pair.engine, (luma, chroma), name, Color(), pts), want, 1 << PixelFormat(name).low_bits)
        pair.engine.enhance_planes(
            (luma, chroma[:, 0::2], chroma[:, 1::2]), PixelFormat(name), Color(), pts,
            (luma, chroma[:, 0::2], chroma[:, 1::2]),
        )  # fmt: skip
        assert_close((luma, chroma), want, 1 << PixelFormat(name).low_bits)  # in place, and the same time again


def test_grey_and_rgb_pictures(make: Any, quick: None) -> None:
    pair = make()
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(40), np.arange(56))[..., None] + rng.integers(0, 40, (40, 56, 3))
    for picture in (ramp.astype(np.uint8), ramp[..., 0].astype(np.uint16) * 300):
        got, want = pair.engine(picture), pair.cpu(picture)
        assert_close([got], [want], TOLERANCE if picture.dtype == np.uint8 else 16)
        assert changes((got,), (picture,))


def test_stills_leave_the_video_alone(make: Any, quick: None) -> None:
    pair, alone = make(), make()
    clip = list(frames(48, 32, count=4))
    for index, (planes, pts) in enumerate(clip[:3]):
        got = enhanced(pair.engine, planes, "yuv420p", Color(), pts)
        assert all(map(np.array_equal, got, enhanced(alone.engine, planes, "yuv420p", Color(), pts)))
        still = enhanced(pair.engine, clip[index + 1][0], "yuv420p", Color(), None)
        assert_close(still, enhanced(pair.cpu, clip[index + 1][0], "yuv420p", Color(), None))


def test_many_stills_between_frames_do_not_make_a_video_forgotten(make: Any, quick: None) -> None:
    pair, alone = make(), make()
    (first, begin), (second, end) = list(frames(48, 32, count=2))
    for enhancer in (pair.engine, alone.engine):
        enhanced(enhancer, first, "yuv420p", Color(), begin)
    for width in range(16, 28, 2):
        enhanced(pair.engine, next(frames(width, 16))[0], "yuv420p", Color(), None)
    got, want = (enhanced(each, second, "yuv420p", Color(), end) for each in (pair.engine, alone.engine))
    assert all(map(np.array_equal, got, want))


def test_turned_frames_are_judged_upright(make: Any, quick: None) -> None:
    pair = make()
    results = []
    for turns in range(4):
        planes, pts = next(frames(48, 32))
        got = enhanced(pair.engine, planes, "yuv420p", Color(), pts, turns)
        pair.cpu.reset()
        assert_close(got, enhanced(pair.cpu, planes, "yuv420p", Color(), pts, turns))
        results.append(got[0].tobytes())
    assert len(set(results)) == 4


@pytest.mark.parametrize("change", ["backward", "size", "color", "reset"])
def test_what_starts_afresh(make: Any, quick: None, change: str) -> None:
    pair, fresh = make(), make()
    clip = list(frames(48, 32, count=3))
    for planes, pts in clip[:2]:
        enhanced(pair.engine, planes, "yuv420p", Color(), pts)
    planes, pts = clip[2]
    color = Color("bt601") if change == "color" else Color()
    if change == "backward":
        pts = -1.0
    elif change == "size":
        planes = next(frames(56, 32))[0]
    elif change == "reset":
        pair.engine.reset()
    got = enhanced(pair.engine, planes, "yuv420p", color, pts)
    assert all(map(np.array_equal, got, enhanced(fresh.engine, planes, "yuv420p", color, pts)))


def test_sizes_in_turn_keep_their_plans_and_no_memory_of_each_other(make: Any, quick: None) -> None:
    pair = make()
    sizes = [(48, 32), (56, 32), (48, 32), (32, 32), (40, 32), (32, 40), (48, 32)]
    for index, size in enumerate(sizes):
        planes = next(frames(*size))[0]
        got, want = (enhanced(each, planes, "yuv420p", Color(), index / 24) for each in (pair.engine, pair.cpu))
        assert_close(got, want)
    assert len(pair.engine._engine._plans) == 4
    assert [key.size for key in pair.engine._engine._plans][-1] == (32, 48)


def test_estimates_are_taken_every_nth_frame_and_at_cuts(make: Any, quick: None) -> None:
    pair = make(estimate_every=3, smoothing=0.0)
    for planes, pts in frames(48, 32):
        assert_close(*(enhanced(each, planes, "yuv420p", Color(), pts) for each in (pair.engine, pair.cpu)))
    every = make(smoothing=0.0).engine
    held = make(estimate_every=3, smoothing=0.0).engine
    clip = list(frames(48, 32, count=3))
    (first, _), (second, _) = clip[:2]
    for enhancer in (every, held):
        enhanced(enhancer, first, "yuv420p", Color(), 0.0)
    darker = tuple(plane - plane // 8 if not index else plane for index, plane in enumerate(second))
    assert not all(map(np.array_equal, *(enhanced(each, darker, "yuv420p", Color(), 0.1) for each in (every, held))))


@pytest.mark.parametrize("name", ["yuv420p", "yuv420p10le"])
def test_denoise(make: Any, quick: None, name: str) -> None:
    """Through a cut, over more frames than there are slots."""
    pair = make(denoise=0.5)
    rng = np.random.default_rng(1)
    for index, (planes, _) in enumerate(frames(48, 32, name, count=7)):
        top = PixelFormat(name).max_code
        noisy = tuple((p + rng.normal(0, top / 100, p.shape)).clip(0, top).astype(p.dtype) for p in planes)
        got, want = (enhanced(each, noisy, name, Color(), index / 24) for each in (pair.engine, pair.cpu))
        assert_close(got, want, TOLERANCE if name == "yuv420p" else 2 * TOLERANCE)


def test_frames_under_way_come_out_as_one_by_one(make: Any, quick: None) -> None:
    """Tickets that are waited for late or twice, more of them than there are slots."""
    pair, alone = make(), make()
    clip = list(frames(48, 32))
    tickets, results = [], []
    for index, (planes, _) in enumerate(clip):
        out = tuple(np.zeros_like(plane) for plane in planes)
        tickets.append(pair.engine.submit(planes, PixelFormat("yuv420p"), Color(), index / 24, out))
        results.append(out)
    # A result lies in its place when it is waited for, or its slot is needed.
    assert [out[0].any() for out in results] == [True, True, False, False, False, False]
    for ticket in tickets[2:] * 2:
        ticket.wait()
    for index, ((planes, _), got) in enumerate(zip(clip, results, strict=True)):
        assert all(map(np.array_equal, got, enhanced(alone.engine, planes, "yuv420p", Color(), index / 24)))
    assert pair.engine.depth == cuda_engine.SLOTS - 1 and pair.cpu.depth == 0


def test_graphs_change_nothing(weights: Path, quick: None) -> None:
    """Bit for bit; on a GPU the first enhancer replays and the other never does."""
    from rtlit.network import load_network

    network, settings = load_network(weights), EnhanceSettings(denoise=0.5)
    replayed, plain = (Engine(streams.streams_of(DEVICE), network, settings, graphs=graphs) for graphs in (True, False))
    for index, (planes, _) in enumerate(frames(48, 32, count=6)):
        outs = []
        for engine in (replayed, plain):
            outs.append(tuple(np.empty_like(plane) for plane in planes))
            engine.submit(planes, PixelFormat("yuv420p"), Color(), index / 24, outs[-1], strength=1 + index / 10).wait()
        assert all(map(np.array_equal, *outs))
    slots = [[slot.replay is not None for slot in plan.slots] for e in (replayed, plain) for plan in e._plans.values()]
    assert slots == [[True] * 4, [False] * 4]


@pytest.mark.parametrize(("name", "planar"), [("nv12", "yuv420p"), ("p010le", "yuv420p10le")])
def test_planes_on_the_device(make: Any, quick: None, name: str, planar: str) -> None:
    """Tensors go in, and come out as tensors, or as planar codes on the host."""
    pair = make()
    planes, pts = next(frames(48, 32, planar))
    want = enhanced(pair.cpu, planes, planar, Color(), pts)
    tensors = tuple(torch.from_numpy(plane).to(DEVICE) for plane in stored(planes, name))
    inside = pair.engine.submit(tensors, PixelFormat(name), Color(), pts, None)
    out = tuple(np.empty_like(plane) for plane in planes)
    outside = pair.engine.submit(tensors, PixelFormat(planar), Color(), pts, out, 0, PixelFormat(name).low_bits)
    kept = inside.wait()
    assert all(plane.device.type == DEVICE.type for plane in kept)
    assert_close([plane.cpu().numpy() for plane in kept], stored(want, name), 1 << PixelFormat(name).low_bits)
    outside.wait()
    assert_close(out, want)


def test_pictures_of_the_shipped_network(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    """Estimates in 16-bit floats against the CPU's in 32."""
    with monkeypatch.context() as patch:
        patch.setattr("rtlit.enhancer.choose_backend", lambda *_: BackendChoice(FakeBackend(), "for tests"))
        engine = Enhancer("cuda")
    cpu = Enhancer("cpu", threads=1)
    luma, *chroma = next(frames(256, 144))[0]
    planes = ((16 + 0.55 * (luma - 16.0)).astype(np.uint8), *chroma)  # dark enough for what is estimated to count
    got, want = (enhanced(each, planes, "yuv420p", Color(), None) for each in (engine, cpu))
    assert changes(got, planes)
    assert_close(got, want, 2)
    assert np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(got, want, strict=True)]) < 0.1
    assert set(engine.stage_seconds) == {"upload", "compute", "download"}
    assert all(seconds > 0 for seconds in engine.stage_seconds.values())


def test_too_small_a_frame_is_said(make: Any, quick: None) -> None:
    planes = tuple(plane[:8] for plane in next(frames(48, 32))[0])
    with pytest.raises(UsageError, match="48×8 is too small"):
        enhanced(make().engine, planes, "yuv420p", Color(), 0.0)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried"),
            "out of memory on a frame of 48×32; close what else uses",
        ),
        (
            RuntimeError("CUDA error: an illegal memory access\nmore"),
            r"gave up \(CUDA error: an illegal .*\); start aga",
        ),
        (RuntimeError("Triton Error [CUDA]: out of memory"), "out of memory on a frame of 48×32; close what else uses"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_device_errors_say_what_to_do(
    make: Any, quick: None, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    enhancer = make().engine
    planes = next(frames(48, 32))[0]
    with monkeypatch.context() as patch:
        patch.setattr(cuda_engine, "apply_curves", fail)
        with pytest.raises(DeviceError, match=said):
            enhanced(enhancer, planes, "yuv420p", Color(), 0.0)
    fresh = enhanced(make().engine, planes, "yuv420p", Color(), 0.1)
    assert all(map(np.array_equal, enhanced(enhancer, planes, "yuv420p", Color(), 0.1), fresh))  # it starts afresh


def test_other_errors_pass_as_they_are(make: Any, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("our own mistake")

    monkeypatch.setattr(cuda_engine, "apply_curves", fail)
    with pytest.raises(RuntimeError, match="our own mistake"):
        enhanced(make().engine, next(frames(48, 32))[0], "yuv420p", Color(), 0.0)


def pretend(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0)) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "GPU of the test")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)


def test_the_choice_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    choice = choose_backend("auto")
    assert choice.backend.name == "Triton kernels on GPU of the test"
    assert choice.reason == f"torch {torch.__version__} finds GPU of the test"
    assert choose_backend("cpu").reason == "asked for"


@pytest.mark.parametrize("why", ["triton", "old"])
def test_kernels_that_can_not_run_are_said(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    pretend(monkeypatch, (6, 1) if why == "old" else (9, 0))
    said = "compute capability 6.1, and the kernels need 7.5"
    if why == "triton":
        said = r"triton isn't installed: pip install 'triton>=3.6'"

        def missing(name: str) -> None:
            raise ModuleNotFoundError("No module named 'triton'", name="triton")

        monkeypatch.setattr(cuda, "import_module", missing)
    choice = choose_backend("auto", 1)
    assert choice.backend.name == "numba on 1 CPU thread" and said in choice.reason
    with pytest.raises(DeviceError, match=f"device cuda: .* finds GPU of the test, but .*{said}; use device cpu"):
        choose_backend("cuda")


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_nothing_of_hdr_is_copied_from_the_host(transfer: Any) -> None:
    """Which a CUDA graph could not: all that the operations take lies on the device."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert "lift_fresh" not in str(operation) and "_local_scalar" not in str(operation)
            assert all(argument.device.type == "meta" for argument in args if isinstance(argument, torch.Tensor))
            return operation(*args, **kwargs or {})

    with Watch():
        hdr.to_sdr(torch.zeros(3, 16, 24, device="meta"), transfer)
        hdr.convert_grid(torch.zeros(3, 8, 2, 3, device="meta"), transfer)
