"""The live pipeline, from a source that the test feeds by hand."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from rtlit import Enhancer
from rtlit.avframe import color_of, planes_of, quarter_turns_of
from rtlit.errors import DeviceError, InputError, UsageError
from rtlit.live.pipeline import Latest, LiveFrame, LivePipeline, as_live
from rtlit.settings import EnhanceSettings


@dataclass(frozen=True)
class Captured:
    frame: av.VideoFrame
    captured: float
    connection: int = 0


@dataclass
class HandFed:
    """Yields what the test puts; an exception is raised, None ends it."""

    items: queue.Queue[Any] = field(default_factory=queue.Queue)
    on_status: Callable[[str], None] = print
    description: str = "by hand"
    state: str = "live"
    unopenable: Exception | None = None

    def open(self) -> None:
        if self.unopenable:
            raise self.unopenable

    def frames(self) -> Iterator[Captured]:
        while (item := self.items.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def close(self) -> None:
        self.items.put(None)


def picture(width: int = 320, height: int = 180, seed: int = 0) -> NDArray[np.uint8]:
    """A dark gradient with a bright window."""
    x = np.linspace(5, 60, width)[None, :] + np.random.default_rng(seed).uniform(0, 3, (height, 1))
    codes = np.repeat(x[..., None], 3, -1)
    codes[: height // 2, width // 2 :] = 235
    return codes.astype(np.uint8)


def frame(format: str = "yuv420p", **size: int) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(picture(**size), format="rgb24").reformat(format=format)


@pytest.fixture
def fed() -> Iterator[tuple[HandFed, LivePipeline]]:
    source = HandFed()
    pipeline = LivePipeline(source, EnhanceSettings(device="cpu", threads=1))  # type: ignore[arg-type]
    pipeline.start()
    yield source, pipeline
    pipeline.stop()
    assert not any(thread.is_alive() for thread in pipeline._threads)


def await_frame(pipeline: LivePipeline, after: int = 0) -> LiveFrame:
    found = pipeline.wait(after, timeout=60)
    assert found is not None
    return found


def test_a_frame_is_enhanced_as_the_enhancer_does(fed: tuple[HandFed, LivePipeline]) -> None:
    source, pipeline = fed
    given = frame()
    source.items.put(Captured(given, time.monotonic()))
    got = await_frame(pipeline)
    expected = Enhancer("cpu")(given, 0.0)
    for plane, ours in zip(planes_of(expected), planes_of(got.after), strict=True):
        np.testing.assert_array_equal(plane, ours)
    assert planes_of(got.after)[0].mean() > planes_of(got.before)[0].mean() + 5
    assert got.enhanced >= got.captured and got.number == 1


def test_the_newest_frame_wins_and_the_others_are_counted() -> None:
    source = HandFed()
    pipeline = LivePipeline(source, EnhanceSettings(device="cpu", threads=1))  # type: ignore[arg-type]
    blocked, go = threading.Event(), threading.Event()

    class Slow:
        def send(self, frame: LiveFrame) -> None:
            blocked.set()
            go.wait(60)

    pipeline.add_sink(Slow())
    pipeline.start()
    try:
        source.items.put(Captured(frame(), 1.0))
        assert blocked.wait(60)
        for at in (2.0, 3.0, 4.0):
            source.items.put(Captured(frame(), at))
        until(lambda: pipeline.stats.captured == 4)
        go.set()
        assert await_frame(pipeline, 1).captured == 4.0
        assert pipeline.stats.dropped == 2
    finally:
        go.set()
        pipeline.stop()


def test_sinks_get_every_frame_until_they_are_removed(fed: tuple[HandFed, LivePipeline]) -> None:
    source, pipeline = fed
    numbers: list[int] = []

    class Keep:
        def send(self, frame: LiveFrame) -> None:
            numbers.append(frame.number)

    keep = Keep()
    pipeline.add_sink(keep)
    for count in range(1, 4):
        source.items.put(Captured(frame(), float(count)))
        await_frame(pipeline, count - 1)
    until(lambda: len(numbers) == 3)
    pipeline.remove_sink(keep)
    source.items.put(Captured(frame(), 4.0))
    await_frame(pipeline, 3)
    assert numbers == [1, 2, 3]


def test_strength_and_smoothing_change_while_it_runs(fed: tuple[HandFed, LivePipeline]) -> None:
    source, pipeline = fed
    pipeline.strength, pipeline.smoothing = 0.0, 0.25
    source.items.put(Captured(frame(), 1.0))
    got = await_frame(pipeline)
    np.testing.assert_array_equal(planes_of(got.before)[0], planes_of(got.after)[0])
    pipeline.strength = 1.0
    source.items.put(Captured(frame(), 1.1))
    got = await_frame(pipeline, 1)
    assert planes_of(got.after)[0].mean() > planes_of(got.before)[0].mean() + 5
    assert pipeline.smoothing == 0.25
    with pytest.raises(UsageError):
        pipeline.strength = 3.0


def test_the_size_may_change_and_a_new_connection_starts_afresh(fed: tuple[HandFed, LivePipeline]) -> None:
    source, pipeline = fed
    source.items.put(Captured(frame(), 1.0))
    await_frame(pipeline)
    source.items.put(Captured(frame(width=64, height=48), 1.03))
    got = await_frame(pipeline, 1)
    assert (got.after.width, got.after.height) == (64, 48) == (pipeline.stats.width, pipeline.stats.height)
    # What the clock of another connection says may lie before.
    source.items.put(Captured(frame(width=64, height=48), 0.5, connection=1))
    assert await_frame(pipeline, 2).captured == 0.5


def test_figures(fed: tuple[HandFed, LivePipeline]) -> None:
    source, pipeline = fed
    assert np.isnan(pipeline.stats.latency_ms) and pipeline.stats.width == 0
    for count in range(5):
        source.items.put(Captured(frame(), time.monotonic() - 0.2))
        got = await_frame(pipeline, count)
        pipeline.shown(got)
        pipeline.shown(got)  # another viewer
        time.sleep(0.02)
    stats = pipeline.stats
    assert stats.shown == 5 and stats.captured == 5
    assert 200 <= stats.latency_ms <= stats.latency_p95_ms
    assert 0 < stats.shown_fps <= 50 and 0 < stats.captured_fps <= 50
    assert stats.enhance_ms > 0 and stats.source == "by hand" and stats.state == "live"


def test_the_end_of_the_source_ends_it(fed: tuple[HandFed, LivePipeline]) -> None:
    source, pipeline = fed
    source.items.put(Captured(frame(), 1.0))
    source.items.put(None)
    until(lambda: pipeline.ended)
    assert pipeline.error is None
    assert await_frame(pipeline).captured == 1.0  # the last picture stays
    assert pipeline.wait(1, timeout=0.01) is None


def test_what_breaks_it_is_told(fed: tuple[HandFed, LivePipeline]) -> None:
    source, pipeline = fed
    source.items.put(DeviceError("camera: gone"))
    until(lambda: pipeline.ended)
    assert isinstance(pipeline.error, DeviceError)


def test_a_failing_enhancer_ends_it_and_closes_the_source(fed: tuple[HandFed, LivePipeline]) -> None:
    source, pipeline = fed
    source.items.put(Captured(frame(width=8, height=8), 1.0))
    until(lambda: pipeline.ended)
    assert isinstance(pipeline.error, UsageError)


def test_a_source_that_cannot_be_opened_starts_nothing() -> None:
    source = HandFed(unopenable=InputError("no camera"))
    pipeline = LivePipeline(source, EnhanceSettings(device="cpu", threads=1))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no camera"):
        pipeline.start()
    pipeline.stop()


def test_notices_are_of_a_source_that_is_not_well(fed: tuple[HandFed, LivePipeline]) -> None:
    source, pipeline = fed
    source.state = "reconnecting"
    source.on_status("camera unplugged; waiting for it")
    assert pipeline.notice == "camera unplugged; waiting for it"
    source.state = "live"
    assert pipeline.notice == ""


@pytest.mark.parametrize("size", [(320, 180), (1280, 720), (99, 57)])
@pytest.mark.parametrize(
    "format",
    [
        "yuvj422p",
        "yuvj420p",
        "yuyv422",
        "uyvy422",
        "nv12",
        "bgr24",
        "rgba",
        "yuv444p",
        "yuv420p10le",
        "yuv420p",
        "gray",
    ],
)
def test_every_camera_format_keeps_its_colours(format: str, size: tuple[int, int]) -> None:
    width, height = size
    codes = np.empty((height, width, 3), np.uint8)
    codes[...] = np.linspace(30, 220, width)[None, :, None]
    codes[..., 1] //= 2
    matrix = 1 if height >= 720 else 6
    given = av.VideoFrame.from_ndarray(codes, format="rgb24").reformat(
        format=format, dst_colorspace=matrix, dst_color_range=2 if format.startswith("yuvj") else None
    )
    live = as_live(given)
    color = color_of(live)
    assert (live.format.name, live.width, live.height) == ("yuv420p", width, height)
    assert color.full_range == (format.startswith("yuvj") or format == "gray")
    back = shown(live, 1 if color.matrix == "bt709" else 6, color.full_range)
    of_given = given.reformat(format="rgb24", src_colorspace=matrix, dst_color_range=2).to_ndarray().astype(float)
    inside = np.s_[4:-4, 8:-8]
    assert np.abs(back - of_given)[inside].mean() < 2.5  # swscale's own rounding, both ways


def shown(live: av.VideoFrame, matrix: int, full_range: bool) -> NDArray[np.float64]:
    rgb = live.reformat(
        format="rgb24", src_colorspace=matrix, src_color_range=2 if full_range else 1, dst_color_range=2
    )
    return rgb.to_ndarray().astype(float)


def test_large_frames_are_reduced_and_small_ones_left() -> None:
    assert (as_live(frame(width=640, height=360), 180).width, as_live(frame(width=640, height=360), 180).height) == (
        320,
        180,
    )
    small = frame()
    assert as_live(small, 720) is small


def test_latest_wakes_every_waiter_with_the_newest() -> None:
    latest: Latest[str] = Latest()
    assert latest.get(0, 0) is None
    latest.put("a")
    latest.put("b")
    assert latest.get(0, 0) == ("b", 2) and latest.get(2, 0.01) is None
    found: list[tuple[str, int] | None] = []
    waiters = [threading.Thread(target=lambda: found.append(latest.get(2, 60))) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    latest.put("c")
    for waiter in waiters:
        waiter.join(60)
    assert found == [("c", 3)] * 3
    latest.close()
    assert latest.get(3, 60) is None and latest.get(0, 60) == ("c", 3)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.005)


def test_frames_are_turned_upright() -> None:
    with av.open(str(Path(__file__).parent / "data" / "media3_dolbyVision-hdr.MOV")) as container:
        lying = next(container.decode(video=0))
    upright = as_live(lying)
    assert quarter_turns_of(lying) % 2 and (upright.width, upright.height) == (lying.height, lying.width)
    plain = lying.reformat(format="yuv420p", dst_color_range=1)
    turned = np.rot90(planes_of(plain)[0], quarter_turns_of(lying))
    assert np.abs(turned.astype(int) - planes_of(upright)[0]).mean() < 1
