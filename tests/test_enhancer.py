"""Enhancer: kinds of picture, time, and what stays as it was.

The network here has random weights, so that what it says differs from picture to picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rtlit import reference
from rtlit.avframe import color_of, pixel_format_of, planar_name, planes_of, quarter_turns_of, reformat, to_planar
from rtlit.enhancer import Enhancer
from rtlit.errors import UsageError, WeightsError
from rtlit.frame import Color
from rtlit.network import CurveNetwork, save_network

Bytes = NDArray[np.uint8]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = CurveNetwork()
    torch.nn.init.normal_(network.head.weight, std=0.3)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_network(network, path)
    return path


@pytest.fixture
def make(weights: Path) -> Callable[..., Enhancer]:
    return lambda **settings: Enhancer("cpu", weights=weights, threads=1, **settings)


@pytest.fixture(scope="module")
def frames(clip: Path) -> list[av.VideoFrame]:
    """The first frames of the clip, reduced to 320×180."""
    with av.open(str(clip)) as container:
        decoded = container.decode(video=0)
        return [next(decoded).reformat(width=320, height=180) for _ in range(8)]


def static_scene(picture: Bytes, count: int, noise: float = 4.0) -> Iterator[Bytes]:
    """The same picture with fresh noise, standard deviation in codes."""
    rng = np.random.default_rng(0)
    small = picture[::4, ::4].astype(np.float32)
    for _ in range(count):
        yield (small + rng.normal(0, noise, small.shape)).clip(0, 255).round().astype(np.uint8)


def grid_of(enhancer: Enhancer) -> torch.Tensor:
    assert enhancer._state is not None
    return enhancer._state.grid


# Pictures.


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("grey", [False, True])
def test_pictures_keep_their_kind(make: Callable[..., Enhancer], picture: Bytes, dtype: type, grey: bool) -> None:
    source = picture[:97, :131, 1] if grey else picture[:97, :131]
    factor = {np.uint8: 1, np.uint16: 257, np.float32: np.float32(1 / 255)}[dtype]
    source = source.astype(dtype) * dtype(factor)
    before = source.copy()
    result = make()(source)
    assert result.dtype == dtype and result.shape == source.shape and np.array_equal(source, before)
    full = 1.0 if dtype is np.float32 else float(np.iinfo(dtype).max)
    eight = make()(picture[:97, :131, 1] if grey else picture[:97, :131])
    assert np.abs(result / full - eight / 255).max() < 0.51 / 255 + 1e-4
    assert np.array_equal(make(strength=0.0)(source), source)


def test_float_pictures_keep_what_lies_outside(make: Callable[..., Enhancer], picture: Bytes) -> None:
    source = picture[:64, :64].astype(np.float32) / 255
    source[0, 0], source[1, 1], source[2, 2] = 1.5, -0.25, np.nan
    result = make()(source)
    assert (result[0, 0] == 1.5).all() and (result[1, 1] == -0.25).all() and np.isnan(result[2, 2]).all()
    inside = (source >= 0) & (source <= 1)
    assert result[inside].min() >= 0 and result[inside].max() <= 1


def test_pictures_that_are_none(make: Callable[..., Enhancer]) -> None:
    enhancer = make()
    with pytest.raises(UsageError, match=r"RGB \[H, W, 3\] or grey \[H, W\], not \[32, 32, 4\]"):
        enhancer(np.zeros((32, 32, 4), np.uint8))
    with pytest.raises(UsageError, match="uint8, uint16 or float32 .*, not int64"):
        enhancer(np.zeros((32, 32, 3), np.int64))
    with pytest.raises(UsageError, match="8×32 is too small"):
        enhancer(np.zeros((32, 8, 3), np.uint8))


def test_pictures_are_the_reference(make: Callable[..., Enhancer], picture: Bytes) -> None:
    enhancer = make(strength=1.3)
    rgb = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
    planes = [(rgb[:, i] * 255).round().byte() for i in (1, 2, 0)]
    size = enhancer.network.config.thumbnail_size(720, 1280)
    thumbnail, _ = reference.analyze(planes, pixel_format_of(av.VideoFrame(16, 16, "gbrp")), Color("rgb", True), size)
    grid = enhancer.network.estimate(thumbnail, 1.3)
    wanted = (reference.enhance_rgb(rgb, reference.exponentiate(grid, 1.3))[0] * 255).permute(1, 2, 0)
    assert float((torch.from_numpy(enhancer(picture)) - wanted).abs().max()) <= 1.01
    assert float((wanted - torch.from_numpy(picture.copy())).abs().max()) > 5


def test_strength_above_1_overrules_restraint(picture: Bytes) -> None:
    """A little too dark to be sure: held back at 1, and at 0.5; who asks for 2 gets all that the network wants."""
    grids = {}
    for strength in (0.5, 1.0, 1.5, 2.0):
        enhancer = Enhancer("cpu", strength, threads=1)
        enhancer((0.7 * picture[::4, ::4]).astype(np.uint8), 0.0)
        grids[strength] = grid_of(enhancer)
    kept = float(grids[1.0].norm() / grids[2.0].norm())
    assert 0.2 < kept < 0.8 and torch.equal(grids[0.5], grids[1.0])
    torch.testing.assert_close(grids[1.5], grids[2.0] * (1 + kept) / 2)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_pictures_are_judged_upright(make: Callable[..., Enhancer], picture: Bytes, turns: int) -> None:
    stored = np.ascontiguousarray(np.rot90(picture, -turns))
    upright = make()(picture).astype(int)
    shown = np.rot90(make()(stored, quarter_turns=turns), turns)
    assert np.abs(shown - upright).max() <= 1
    assert np.abs(np.rot90(make()(stored), turns) - upright).max() > 4  # lying, it is judged otherwise


def test_frames_bring_their_rotation(make: Callable[..., Enhancer]) -> None:
    with av.open(str(Path(__file__).parent / "data" / "media3_sample_rotate_and_reflect.mp4")) as container:
        frame = next(container.decode(video=0))
    assert frame.rotation == -90 and quarter_turns_of(frame) == 3
    planes = tuple(plane.copy() for plane in planes_of(frame))
    make().enhance_planes(planes, pixel_format_of(frame), color_of(frame), None, planes, 3)
    assert all(np.array_equal(a, b) for a, b in zip(planes_of(make()(frame)), planes, strict=True))


def test_missing_weights_are_said() -> None:
    with pytest.raises(WeightsError, match="no such weights file"):
        Enhancer("cpu", weights="nowhere.safetensors")


# Frames of video.


def tagged(frame: av.VideoFrame, name: str) -> av.VideoFrame:
    result = frame.reformat(format=name)
    result.pts, result.dts, result.time_base, result.duration = 1234, 1200, Fraction(1, 90000), 3003
    result.color_primaries, result.color_trc = 9, 14
    return result


PLANAR = ["yuv420p", "yuv422p10le", "yuv444p12le", "gbrp", "gray", "yuva420p", "gbrap", "yuva444p10le"]
OTHERS = [
    "nv12", "nv21", "nv16", "nv24", "p010le", "p016le", "p210le", "yuyv422", "uyvy422", "y210le", "yuv420p10be",
    "rgb24", "bgr24", "rgba", "bgra", "argb", "rgb0", "rgb48le", "bgr48be", "rgba64le", "gray16be", "ya8",
]  # fmt: skip


@pytest.mark.parametrize("name", PLANAR + OTHERS)
def test_frames_keep_everything_but_their_light(
    make: Callable[..., Enhancer], frames: list[av.VideoFrame], name: str
) -> None:
    frame = tagged(frames[0], name)
    contents = [bytes(plane) for plane in frame.planes]
    for strength in (0.0, 1.0):
        result = make(strength=strength)(frame)
        assert result.format.name == name and (result.width, result.height) == (320, 180)
        assert (result.pts, result.dts, result.time_base, result.duration) == (1234, 1200, Fraction(1, 90000), 3003)
        for tag in ("color_range", "colorspace", "color_primaries", "color_trc"):
            assert getattr(result, tag) == getattr(frame, tag), tag
        assert [bytes(plane) for plane in frame.planes] == contents  # the input is left alone
        same = pixels(result) == pixels(frame)
        assert same if strength == 0 else not same


def pixels(frame: av.VideoFrame) -> list[bytes]:
    """What the planes hold: lines of 320 pixels have no padding. The fourth byte of rgb0 means nothing."""
    if frame.format.name == "rgb0":
        return [np.frombuffer(memoryview(frame.planes[0]), np.uint8).reshape(-1, 4)[:, :3].tobytes()]
    return [bytes(plane) for plane in frame.planes]


@pytest.mark.parametrize(("other", "planar"), [("nv12", "yuv420p"), ("p010le", "yuv420p10le"), ("rgb24", "gbrp")])
def test_other_formats_give_what_their_planar_sisters_give(
    make: Callable[..., Enhancer], frames: list[av.VideoFrame], other: str, planar: str
) -> None:
    sister = make()(frames[0].reformat(format=other).reformat(format=planar))
    assert pixels(make()(frames[0].reformat(format=other))) == pixels(reformat(sister, other))


def test_frames_in_a_devices_memory_are_refused() -> None:
    with pytest.raises(UsageError, match="'cuda' lies in a device's memory; download it first"):
        planar_name(av.VideoFormat("cuda"))


@pytest.mark.parametrize("name", ["yuva420p", "gbrap", "rgba"])
def test_transparency_stays(make: Callable[..., Enhancer], frames: list[av.VideoFrame], name: str) -> None:
    planar = to_planar(frames[0].reformat(format=name))
    ramp = np.frombuffer(memoryview(planar.planes[3]), np.uint8)
    ramp[:] = np.arange(ramp.size) % 251
    result = to_planar(make()(reformat(planar, name)))
    assert np.array_equal(np.frombuffer(memoryview(result.planes[3]), np.uint8), ramp)


def test_palettes_become_planar_rgb(make: Callable[..., Enhancer]) -> None:
    frame = av.VideoFrame(64, 48, "pal8")
    frame.planes[0].update(bytes(64 * 48))
    frame.planes[1].update(np.full(256, 0xFF204060, np.uint32).tobytes())
    result = make(strength=0.0)(frame)
    assert result.format.name == "gbrp" and (result.to_ndarray(format="rgb24") == [0x20, 0x40, 0x60]).all()


def test_grey_without_a_tag_is_full_range(frames: list[av.VideoFrame]) -> None:
    grey = frames[0].reformat(format="gray")
    grey.color_range = 0
    assert color_of(grey).full_range
    grey.color_range = 1
    assert not color_of(grey).full_range
    yuv = frames[0].reformat(format="yuv420p")
    yuv.color_range = 0
    assert not color_of(yuv).full_range


def test_frames_are_enhanced_by_their_tags(make: Callable[..., Enhancer], frames: list[av.VideoFrame]) -> None:
    frame = tagged(frames[0], "yuv420p10le")
    results = []
    for transfer in (1, 16, 18):
        frame.color_trc = transfer
        assert color_of(frame).transfer == {1: "sdr", 16: "pq", 18: "hlg"}[transfer]
        results.append(pixels(make()(frame)))
        assert pixels(make(strength=0.0)(frame)) == pixels(frame)
    assert results[0] != results[1] != results[2]


def test_odd_frames_with_padded_lines(make: Callable[..., Enhancer], frames: list[av.VideoFrame]) -> None:
    frame = frames[0].reformat(width=131, height=77, format="yuv420p")
    result = make(strength=0.0)(frame)
    assert all(map(np.array_equal, planes_of(result), planes_of(frame)))
    assert [plane.shape for plane in planes_of(result)] == [(77, 131), (39, 66), (39, 66)]


# Time.


class Counter:
    """Counts the runs of an enhancer's network."""

    def __init__(self, enhancer: Enhancer) -> None:
        self.runs = 0
        enhancer.network.register_forward_hook(self)

    def __call__(self, *_: object) -> None:
        self.runs += 1


def test_stills_leave_no_trace(make: Callable[..., Enhancer], picture: Bytes) -> None:
    one, two = make(), make()
    scenes = list(static_scene(picture, 4))
    for index, scene in enumerate(scenes):
        left, right = one(scene, index / 30), two(scene, index / 30)
        assert np.array_equal(left, right)
        assert np.array_equal(one(picture), make()(picture))


@pytest.mark.parametrize(
    ("settings", "rate", "runs"),
    [
        ({"estimate_every": 1}, 30, 60), ({"estimate_every": 4}, 30, 15), ({}, 30, 30), ({}, 25, 30),
        ({}, 60, 15), ({}, 10, 60), ({}, Fraction(30000, 1001), 30), ({}, 24, 30),
    ],
    ids=str,
)  # fmt: skip
def test_how_often_the_network_runs(
    make: Callable[..., Enhancer], picture: Bytes, settings: dict[str, int], rate: Fraction, runs: int
) -> None:
    """By timestamps alone, so that a video gives the same frames however fast the machine is."""
    enhancer = make(**settings)
    counter = Counter(enhancer)
    for index in range(60):
        enhancer(picture[:64, :96], float(index / Fraction(rate)))
    assert counter.runs == runs


def test_a_cut_is_right_in_its_first_frame(make: Callable[..., Enhancer], picture: Bytes) -> None:
    enhancer = make(estimate_every=100)
    counter = Counter(enhancer)
    for index, scene in enumerate(static_scene(picture, 10)):
        enhancer(scene, index / 30)
    assert counter.runs == 1
    other = 255 - picture[::4, ::4]
    after = enhancer(other, 10 / 30)
    assert counter.runs == 2 and np.array_equal(after, make()(other))


def test_the_clip_has_no_cut_and_its_joints_have(make: Callable[..., Enhancer], clip: Path) -> None:
    """The camera moves all the time; joined to its negative or to a white card it jumps."""
    enhancer = make()
    with av.open(str(clip)) as container:
        decoded = [frame.reformat(width=320, height=180) for frame in container.decode(video=0)]
    histograms = []
    for frame in decoded:
        thumbnail = enhancer.choice.backend.analyze(
            planes_of(frame), pixel_format_of(frame), color_of(frame), (72, 128)
        )
        histograms.append(torch.from_numpy(thumbnail[1]))
        shown = torch.from_numpy(thumbnail[0])
    assert not any(bool(reference.is_cut(*pair)) for pair in zip(histograms[1:], histograms[:-1], strict=True))
    for other in (1 - shown, torch.ones_like(shown)):
        assert bool(reference.is_cut(reference.tone_histogram(other), histograms[-1]))


def test_gain_follows_with_the_time_constant(make: Callable[..., Enhancer], picture: Bytes) -> None:
    """A dimming too small for a cut: after τ, 1 − 1/e of the way, however the frames are spaced."""
    before, after = picture[::4, ::4], (picture[::4, ::4] * 0.9).astype(np.uint8)
    first, last = make(), make()
    first(before, 0.0)
    last(after, 0.0)
    start, end = grid_of(first), grid_of(last)
    for times in ([0.5], [0.1, 0.2, 0.45, 0.5], [n / 60 for n in range(1, 31)]):
        enhancer = make(smoothing=0.5, estimate_every=1)
        enhancer(before, 0.0)
        for pts in times:
            enhancer(after, pts)
        wanted = end + (start - end).clamp(-reference.MAX_LAG, reference.MAX_LAG) * np.exp(-1)
        torch.testing.assert_close(grid_of(enhancer), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("change", ["backward", "size", "format", "color", "reset"])
def test_what_starts_afresh(make: Callable[..., Enhancer], frames: list[av.VideoFrame], change: str) -> None:
    enhancer, fresh = make(), make()
    for index, frame in enumerate(frames[:4]):
        frame.pts, frame.time_base = 100 + index, Fraction(1, 24)
        enhancer(frame)
    last = frames[-1]
    last.pts, last.time_base, last.color_trc = 104, Fraction(1, 24), 1
    if change == "backward":
        last.pts = 50
    elif change == "size":
        last = last.reformat(width=256)
    elif change == "format":
        last = last.reformat(format="yuv422p")
    elif change == "color":
        last = last.reformat()
        last.color_trc = 16
    else:
        enhancer.reset()
    assert pixels(enhancer(last)) == pixels(fresh(last))


def test_frames_that_go_on_do_not_start_afresh(make: Callable[..., Enhancer], frames: list[av.VideoFrame]) -> None:
    enhancer, fresh = make(smoothing=5.0), make()
    for index, frame in enumerate(frames):
        frame.pts, frame.time_base, frame.color_trc = 200 + index, Fraction(1, 24), 1
        result = enhancer(frame)
    fresh(frames[-1])
    assert not torch.equal(grid_of(enhancer), grid_of(fresh)) and result.pts == frames[-1].pts


def test_strength_changes_between_frames(make: Callable[..., Enhancer], picture: Bytes) -> None:
    enhancer = make(strength=0.0)
    assert np.array_equal(enhancer(picture, 0.0), picture)
    enhancer.strength = 1.0
    assert np.array_equal(enhancer(picture, 0.0), make()(picture))
    with pytest.raises(UsageError, match="strength must be between 0 and 2, not 3"):
        enhancer.strength = 3
    assert enhancer.strength == 1.0


def test_stages_are_timed_and_torch_threads_left_alone(make: Callable[..., Enhancer], picture: Bytes) -> None:
    enhancer, threads = make(), torch.get_num_threads()
    for index in range(3):
        enhancer(picture, index / 30)
    assert list(enhancer.stage_seconds) == ["analyze", "estimate", "smooth", "apply"]
    assert all(0 < seconds < 60 for seconds in enhancer.stage_seconds.values())
    assert torch.get_num_threads() == threads


# Flicker.


def jitter(enhancer: Enhancer, scenes: list[Bytes]) -> float:
    """Mean change of the gain from frame to frame, the first second left out."""
    gains = []
    for index, scene in enumerate(scenes):
        enhancer(scene, index / 30)
        gains.append(reference.exponentiate(grid_of(enhancer), 1))
    return float(torch.stack(gains[30:]).diff(dim=0).abs().mean())


def test_a_static_scene_with_noise_does_not_flicker(make: Callable[..., Enhancer], picture: Bytes) -> None:
    scenes = list(static_scene(picture, 60, noise=8))
    raw = jitter(make(smoothing=0.0, estimate_every=1), scenes)
    assert raw > 0
    assert jitter(make(), scenes) < raw / 4  # 1/21 measured
    assert jitter(make(estimate_every=1), scenes) < raw / 4
