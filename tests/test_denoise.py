"""The temporal filter: backends against its specification, what it leaves alone, and what it is for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from rtlit import denoise, reference
from rtlit.avframe import planes_of
from rtlit.backends.choose import Backend, Filtered, Plane
from rtlit.backends.cpu import CpuBackend
from rtlit.commands import main
from rtlit.enhancer import Enhancer
from rtlit.errors import UsageError
from rtlit.frame import Color, PixelFormat
from rtlit.network import CurveNetwork, save_network
from rtlit.settings import EnhanceSettings
from rtlit.video.settings import VideoSettings
from rtlit.video.transcode import enhance_video
from tests.frames import FORMATS, SIZES, color_for, random_grid, random_planes

# In units of the 16-bit state and in codes: both sides compute in float32, in another order.
TOLERANCE = 1
ONE, TWO = CpuBackend(1), CpuBackend(2)
GREY = PixelFormat("gray")

backends = pytest.mark.parametrize("backend", [ONE, TWO], ids=lambda backend: backend.name)
formats = pytest.mark.parametrize("name", FORMATS)


def two_frames(name: str, size: tuple[int, int]) -> tuple[tuple[Plane, ...], tuple[Plane, ...]]:
    """Random codes, and the same with noise (standard deviation 3 8-bit codes), a quarter of the rows moved by far."""
    pixel_format, rng = PixelFormat(name), np.random.default_rng(1)
    first = tuple(plane.numpy() for plane in random_planes(pixel_format, size, seed=1))
    second = []
    for plane in first:
        noise = rng.normal(0, 3 * 2 ** (pixel_format.depth - 8), plane.shape)
        noise[: plane.shape[0] // 4] *= 5
        second.append((plane + np.rint(noise)).clip(0, pixel_format.max_code).astype(plane.dtype))
    return first, tuple(second)


def filtered(
    backend: Backend, planes: tuple[Plane, ...], last: Filtered | None, name: str, amount: float = 0.5
) -> Filtered:
    out = tuple(np.empty(plane.shape, np.uint16) for plane in planes)
    backend.denoise(planes, last, PixelFormat(name), amount, out)
    return out


def sequence(frames: list[NDArray[np.uint8]], amount: float = 0.5) -> list[NDArray[np.float64]]:
    """Grey frames through the filter, in codes."""
    state: Filtered | None = None
    result = []
    for frame in frames:
        state = filtered(ONE, (np.ascontiguousarray(frame),), state, "gray", amount)
        result.append(state[0] / 256)
    return result


def codes(tones: NDArray[np.floating]) -> NDArray[np.uint8]:
    return tones.round().clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def grey(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A real picture [360, 640], three exposure values darker, in codes."""
    luma = picture.astype(np.float64).mean(-1)
    small = luma.reshape(360, 2, 640, 2).mean((1, 3))
    dark: NDArray[np.float64] = small * 2 ** (-3 / 2.2)
    return dark


# Backends against the specification.


@backends
@formats
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[1]}x{size[0]}")
def test_backends_filter_as_specified(backend: Backend, name: str, size: tuple[int, int]) -> None:
    pixel_format = PixelFormat(name)
    first, second = two_frames(name, size)
    start = filtered(backend, first, None, name)
    shift = 16 - pixel_format.depth
    assert all(np.array_equal(got, want.astype(np.int64) << shift) for got, want in zip(start, first, strict=True))
    result = filtered(backend, second, start, name)
    states = [torch.from_numpy(plane.astype(np.float32)) for plane in start]
    tensors = [torch.from_numpy(plane.astype(np.float32)) for plane in second]
    wanted = denoise.filter_planes(tensors, states, pixel_format, 0.5)
    for got, want, new in zip(result, wanted, second, strict=True):
        assert np.abs(got - want.numpy().astype(np.int64)).max() <= TOLERANCE
        assert (got != new.astype(np.int64) << shift).any(), "nothing was filtered"


@backends
@formats
def test_backends_lift_filtered_planes_as_specified(backend: Backend, name: str) -> None:
    pixel_format = PixelFormat(name)
    color = color_for(pixel_format, Color("bt601"))
    first, second = two_frames(name, (37, 53))
    clean = filtered(ONE, second, filtered(ONE, first, None, name), name)
    gain = reference.exponentiate(random_grid(1)[0], 1)
    out = tuple(np.empty_like(plane) for plane in second)
    backend.apply(second, gain.numpy(), pixel_format, color, out, clean)
    unit = 2.0 ** (pixel_format.depth - 16)
    wanted = reference.apply_curves(
        [torch.from_numpy(plane) for plane in second],
        gain,
        pixel_format,
        color,
        filtered=[torch.from_numpy(plane.astype(np.float32)) * unit for plane in clean],
    )
    for got, want in zip(out, wanted, strict=True):
        distance = np.abs(got.astype(np.int64) - want.numpy().astype(np.int64))
        assert distance.max() <= TOLERANCE and (distance > 0).mean() <= 0.02


def test_one_pixel_by_the_formula() -> None:
    """d = 8 codes at a single pixel of a flat plane, σ = 2 codes: q by hand."""
    last, new = np.full((16, 16), 50, np.uint8), np.full((16, 16), 50, np.uint8)
    new[8, 8] = 58
    sigma = 2.0
    q = max(8 / (3 * sigma), 8 / (2 * 5 * sigma), 8 / (1.2 * 25 * sigma)) - 1
    result = sequence([last, new])[1]
    assert result[8, 8] == pytest.approx(50 + (1 - 5 / 6 * (1 - q)) * 8, abs=1 / 256)
    assert (np.delete(result.ravel(), 8 * 16 + 8) == 50).all()


def test_results_do_not_hang_on_threads() -> None:
    first, second = two_frames("yuv420p", (131, 77))
    start = filtered(ONE, first, None, "yuv420p")
    results = [filtered(CpuBackend(count), second, start, "yuv420p") for count in (1, 2, 3)]
    assert all(np.array_equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


# What it leaves alone.


@backends
@formats
def test_gain_one_changes_nothing_whatever_was_filtered(backend: Backend, name: str) -> None:
    first, second = two_frames(name, (37, 53))
    clean = filtered(ONE, second, filtered(ONE, first, None, name), name)
    out = tuple(np.empty_like(plane) for plane in second)
    color = color_for(PixelFormat(name), Color())
    backend.apply(second, np.ones((3, 8, 9, 16), np.float32), PixelFormat(name), color, out, clean)
    assert all(map(np.array_equal, out, second))


def test_only_what_is_lifted_is_filtered() -> None:
    """Gain 4 on the left, 1 on the right: there the codes keep their bits."""
    rng = np.random.default_rng(0)
    clean: Filtered | None = None
    for _ in range(8):
        second = codes(60 + rng.normal(0, 1.5, (64, 128)))
        clean = filtered(ONE, (second,), clean, "gray")
    gain = np.ones((1, 2, 1, 8), np.float32)
    gain[..., :4] = 4
    plain, out = np.empty_like(second), np.empty_like(second)
    ONE.apply((second,), gain, GREY, Color("bt709", True), (plain,))
    ONE.apply((second,), gain, GREY, Color("bt709", True), (out,), clean)
    assert np.array_equal(out[:, 72:], second[:, 72:])
    assert out[:, :56].std() < 0.6 * plain[:, :56].std()


@pytest.mark.parametrize("pixels", [1, 3, 8])
def test_a_pan_leaves_no_trail(grey: NDArray[np.float64], pixels: int) -> None:
    """What is left of earlier frames in a 5×5 mean, which is as small as a trail can be: below a code."""
    frames = [codes(np.roll(grey, pixels * i, 1)) for i in range(10)]
    left = sequence(frames)[-1] - frames[-1]
    trail = reference.F.avg_pool2d(torch.from_numpy(left)[None], 5, 1).abs().flatten()
    assert float(trail.quantile(0.99)) < 1 and float(trail.mean()) < 0.25
    assert np.abs(left).mean() < 1  # single pixels, which the eye doesn't see move, included


def test_an_object_leaves_no_trail() -> None:
    """A square 12 codes above its ground is gone from where it was at once."""
    frames = [np.full((64, 128), 30, np.uint8) for _ in range(12)]
    for index, frame in enumerate(frames):
        frame[20:40, 8 * index : 8 * index + 16] = 42
    for result, frame in zip(sequence(frames), frames, strict=True):
        assert np.abs(result - frame).max() < 0.5


def test_a_change_that_stays_is_followed(grey: NDArray[np.float64]) -> None:
    """Light that fades in by half a code a frame, below any limit, is not left behind by more than (1 − k)/k steps."""
    frames = [codes(grey * 0.5 + 20 + 0.5 * index) for index in range(40)]
    behind = frames[-1] - sequence(frames)[-1]
    assert behind.mean() < 0.5 * 5 + 0.5


# What it is for.


def test_noise_of_a_static_scene_falls(grey: NDArray[np.float64]) -> None:
    """An exponential mean leaves √(k / (2 − k)) = 0.30 of the noise; what the limits let through makes it 0.45."""
    rng = np.random.default_rng(0)
    frames = [codes(grey + rng.normal(0, 1.5, grey.shape)) for _ in range(30)]
    shadows = (grey > 8) & (grey < 100)  # not clipped at 0
    before, after = ((each - grey)[shadows].std() for each in (frames[-1], sequence(frames)[-1]))
    assert before > 1.4 and after < 0.45 * before


def test_tones_between_codes_come_back() -> None:
    """A gradient of 6 codes over 240 pixels, kept apart by noise alone: bands of 40 pixels become a slope."""
    rng = np.random.default_rng(0)
    truth = np.broadcast_to(np.linspace(20, 26, 240), (48, 240))
    frames = [codes(truth + rng.normal(0, 0.5, truth.shape)) for _ in range(30)]
    banded, result = codes(truth) - truth, sequence(frames)[-1]
    assert np.abs((result - truth).mean(0)).max() < 0.5 * np.abs(banded.mean(0)).max()
    assert len(np.unique(result)) > 50 * len(np.unique(frames[-1]))


# In the Enhancer.


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Enhancer]:
    """With a network that lifts everything by t = 1.4."""
    network = CurveNetwork()
    torch.nn.init.zeros_(network.head.weight)
    with torch.no_grad():
        network.head.bias.fill_(1.4)
    path: Path = tmp_path_factory.mktemp("weights") / "lift.safetensors"
    save_network(network, path)
    return lambda **settings: Enhancer("cpu", weights=path, threads=1, **settings)


def noisy(grey: NDArray[np.float64], count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    return [codes(grey[:120, :160] + rng.normal(0, 1.5, (120, 160))) for _ in range(count)]


def test_the_lifted_scene_is_steadier(make: Callable[..., Enhancer], grey: NDArray[np.float64]) -> None:
    frames = noisy(grey, 12)
    jitter = {}
    for amount in (0.0, 0.5):
        enhancer = make(denoise=amount)
        results = [enhancer(frame, index / 24).astype(np.float64) for index, frame in enumerate(frames)]
        assert results[-1].mean() > 1.5 * frames[-1].mean()
        jitter[amount] = (results[-1] - results[-2]).std()
    assert jitter[0.5] < 0.4 * jitter[0.0]


def test_strength_zero_is_exact_and_keeps_the_filter_going(
    make: Callable[..., Enhancer], grey: NDArray[np.float64]
) -> None:
    """A filter of the input: what came before a change of strength is of use after it."""
    frames = noisy(grey, 10)
    changed, steady = make(denoise=0.5), make(denoise=0.5)
    changed.strength = 0
    for index, frame in enumerate(frames[:-1]):
        assert np.array_equal(changed(frame, index / 24), frame)
        steady(frame, index / 24)
    changed.strength = 1
    assert np.array_equal(changed(frames[-1], 1.0), steady(frames[-1], 1.0))


@pytest.mark.parametrize("why", ["cut", "size", "backwards", "reset"])
def test_a_new_shot_starts_afresh(make: Callable[..., Enhancer], grey: NDArray[np.float64], why: str) -> None:
    """Its first frame is as a video that begins with it would have it."""
    used = make(denoise=0.5)
    for index, frame in enumerate(noisy(grey, 4)):
        used(frame, 1 + index / 24)
    fresh = noisy(grey, 1, seed=9)[0]
    pts = 2.0
    if why == "cut":
        fresh = 255 - fresh
    elif why == "size":
        fresh = np.ascontiguousarray(fresh[:100])
    elif why == "backwards":
        pts = 0.5
    else:
        used.reset()
    assert np.array_equal(used(fresh, pts), make(denoise=0.5)(fresh, pts))


def test_the_next_frame_is_filtered_after_a_cut(make: Callable[..., Enhancer], grey: NDArray[np.float64]) -> None:
    used, new = make(denoise=0.5, smoothing=0), make(denoise=0.5, smoothing=0)
    for index, frame in enumerate(noisy(grey, 3)):
        used(frame, index / 24)
    after = [255 - frame for frame in noisy(grey, 3, seed=5)]
    for index, frame in enumerate(after):
        assert np.array_equal(used(frame, 1 + index / 24), new(frame, 1 + index / 24))


def test_stills_are_left_alone(make: Callable[..., Enhancer], grey: NDArray[np.float64]) -> None:
    enhancer, frames = make(denoise=1.0), noisy(grey, 2)
    enhancer(frames[0], 0.0)
    assert np.array_equal(enhancer(frames[1]), make()(frames[1]))
    assert list(enhancer.stage_seconds) == ["analyze", "estimate", "smooth", "denoise", "apply"]
    assert "denoise" not in make().stage_seconds


@pytest.mark.parametrize("amount", [-0.1, 1.1, float("nan")])
def test_amounts_out_of_range_are_refused(amount: float) -> None:
    with pytest.raises(UsageError, match=r"^denoise must be between 0 and 1, not "):
        EnhanceSettings(denoise=amount)


# In a video.


def test_a_video_through_the_command(tmp_path: Path, make: Callable[..., Enhancer], grey: NDArray[np.float64]) -> None:
    source, weights = tmp_path / "in.mkv", make().settings.weights
    with av.open(str(source), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for index, frame in enumerate(noisy(grey, 10)):
            picture = av.VideoFrame.from_ndarray(np.vstack([frame, np.full((60, 160), 128, np.uint8)]), "yuv420p")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    jitter = {}
    for amount in ("0", "0.5"):
        target = str(tmp_path / f"{amount}.mkv")
        options = ["-o", target, "--denoise", amount, "--weights", str(weights), "--json"]
        run = CliRunner().invoke(main, ["enhance-video", str(source), *options])
        assert run.exit_code == 0, run.output
        assert ("denoise" in json.loads(run.stdout)["stage_ms"]) == (amount == "0.5")
        with av.open(target) as container:
            *_, before, last = (frame.to_ndarray(format="gray").astype(np.float64) for frame in container.decode(0))
        jitter[amount] = (last - before).std()
    assert jitter["0.5"] < 0.5 * jitter["0"]


@pytest.mark.parametrize("value", ["2", "-1", "much"])
def test_the_command_refuses_other_amounts(value: str) -> None:
    run = CliRunner().invoke(main, ["enhance-video", "in.mp4", "--denoise", value])
    assert run.exit_code == 2 and "--denoise" in run.output


@pytest.mark.parametrize(
    ("name", "stored"), [("yuv420p", "yuv420p10le"), ("yuv444p", "yuv444p10le"), ("yuvj420p", "yuv420p10le")]
)
def test_ten_bits_hold_the_same_picture(tmp_path: Path, picture: NDArray[np.uint8], name: str, stored: str) -> None:
    """At strength 0, four times the codes."""
    frame = av.VideoFrame.from_ndarray(picture[:64, :96].copy(), "rgb24").reformat(format=name)
    full = name.startswith("yuvj")
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("mjpeg" if full else "libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 96, 64, name
        container.mux([*stream.encode(frame), *stream.encode(None)])
    enhance_video(source, target, strength=0, device="cpu", video=VideoSettings(codec="ffv1", ten_bit=True))
    with av.open(str(source)) as before, av.open(str(target)) as after:
        old, new = next(before.decode(video=0)), next(after.decode(video=0))
        assert new.format.name == stored
        assert (int(new.color_range) == 2) == full
        for eight, ten in zip(planes_of(old), planes_of(new), strict=True):
            expected = eight.astype(np.uint16) * 4
            assert np.abs(ten.astype(int) - expected).max() <= (3 if full else 0)


def test_ten_bits_round_shadows_more_finely(tmp_path: Path, make: Callable[..., Enhancer]) -> None:
    """A gradient of 30 codes lifted: distinct levels of the filtered picture."""
    source, weights = tmp_path / "in.mkv", make().settings.weights
    rng = np.random.default_rng(0)
    ramp = np.broadcast_to(np.linspace(20, 50, 320), (64, 320))
    with av.open(str(source), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 320, 64, "gray"
        for index in range(8):
            picture = av.VideoFrame.from_ndarray(codes(ramp + rng.normal(0, 0.7, ramp.shape)), "gray")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    levels = {}
    for ten_bit in (False, True):
        target = tmp_path / f"{ten_bit}.mkv"
        video = VideoSettings(ten_bit=ten_bit)
        enhance_video(source, target, device="cpu", weights=weights, denoise=0.5, video=video)
        with av.open(str(target)) as container:
            *_, last = container.decode(video=0)
            levels[ten_bit] = len(np.unique(planes_of(last)[0]))
    assert levels[True] > 3 * levels[False]
