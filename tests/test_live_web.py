"""The live picture in a browser: who may look, the protocol, several viewers, faults; and the page in Chromium."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

import av
import numpy as np
import pytest

aiohttp = pytest.importorskip("aiohttp", exc_type=ImportError)

from browser import Browser, find_chromium  # noqa: E402
from video_tools import dim_frame  # noqa: E402

from rtlit.errors import RtlitError, UsageError  # noqa: E402
from rtlit.live.pipeline import Latest, LiveFrame, LiveStats  # noqa: E402
from rtlit.live.web import MAX_VIEWERS, WebServer, serve  # noqa: E402
from rtlit.live.web_pictures import View, jpeg, to_rgb  # noqa: E402

WAIT = 15.0  # seconds that anything may take on a busy machine
FULL = {"width": 4000, "height": 4000, "before": [0, 1], "after": [0, 1]}


def tagged(frame: av.VideoFrame) -> av.VideoFrame:
    frame.colorspace, frame.color_range = 1, 1
    return frame


def level(value: int, width: int = 320, height: int = 180, chroma: tuple[int, int] = (128, 128)) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane, code in zip(frame.planes, (value, *chroma), strict=True):
        plane.update(bytes([code]) * plane.buffer_size)
    return tagged(frame)


class Pipeline:
    """What `serve` needs of a LivePipeline; frames are put by the test."""

    def __init__(self) -> None:
        self._latest: Latest[LiveFrame] = Latest()
        self.painted: list[int] = []
        self.notice, self.error, self._strength, self.smoothing = "", None, 1.0, 0.5

    @property
    def strength(self) -> float:
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        if not 0 <= value <= 2:
            raise UsageError(f"{value = }")
        self._strength = value

    @property
    def ended(self) -> bool:
        return self._latest.closed

    @property
    def stats(self) -> LiveStats:
        count = self._latest.number
        return LiveStats(30, 30, count, 7, 0, math.nan, math.nan, math.nan, 320, 180, "a device", "a source", "live")

    def put(self, before: av.VideoFrame | None = None, after: av.VideoFrame | None = None) -> int:
        """Put a frame; returns its number."""
        now, number = time.monotonic(), self._latest.number + 1
        self._latest.put(LiveFrame(before or level(40), after or level(160), now, now, number))
        return number

    def end(self) -> None:
        self._latest.close()

    def wait(self, after: int = 0, timeout: float = 0.5) -> LiveFrame | None:
        newest = self._latest.get(after, timeout)
        return newest[0] if newest else None

    def shown(self, frame: LiveFrame) -> None:
        self.painted.append(frame.number)


class Page:
    """A page's end of the WebSocket."""

    def __init__(self, link: Any) -> None:
        self.link = link
        self.texts: list[dict[str, Any]] = []

    async def say(self, **message: Any) -> None:
        await self.link.send_str(json.dumps(message))

    async def picture(self, timeout: float = WAIT) -> tuple[dict[str, Any], dict[str, bytes]]:
        """(header, parts) of the next message of pictures."""
        async with asyncio.timeout(timeout):
            while True:
                message = await self.link.receive()
                if message.type is aiohttp.WSMsgType.BINARY:
                    return unpacked(message.data)
                assert message.type is aiohttp.WSMsgType.TEXT, message
                self.texts.append(json.loads(message.data))

    async def status(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next status that is as wanted; no picture may come meanwhile."""
        async with asyncio.timeout(WAIT):
            while True:
                status = json.loads(await self.link.receive_str())
                if wanted(status):
                    return status

    async def no_picture(self, seconds: float = 0.3) -> None:
        with pytest.raises(TimeoutError):
            await self.picture(seconds)


def unpacked(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    length = struct.unpack_from("<I", data)[0]
    header, begin, parts = json.loads(data[4 : 4 + length]), 4 + length, {}
    for side in ("before", "after"):
        if header.get(side):
            parts[side] = data[begin : begin + header[side][2]]
            begin += header[side][2]
    return header, parts if "number" in header else {"snapshot": data[begin:]}


def decoded(data: bytes, kind: str = "jpeg_pipe") -> np.ndarray[Any, Any]:
    with av.open(BytesIO(data), format=kind) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


@pytest.fixture
def pipeline() -> Pipeline:
    return Pipeline()


@pytest.fixture
def server(pipeline: Pipeline) -> Iterator[WebServer]:
    server = WebServer(pipeline, port=0, token="secret")  # type: ignore[arg-type]
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def idle() -> Iterator[WebServer]:
    """A server that shows nothing, for those who may not look."""
    server = WebServer(Pipeline(), port=0, token="secret")  # type: ignore[arg-type]
    server.start()
    yield server
    server.stop()


@asynccontextmanager
async def pages(server: WebServer, count: int = 1, view: dict[str, Any] | None = FULL) -> AsyncIterator[list[Page]]:
    base = f"http://127.0.0.1:{server.port}"
    async with aiohttp.ClientSession() as session:
        links = [
            await session.ws_connect(f"{base}/secret/live", headers={"Origin": base}, max_msg_size=0)
            for _ in range(count)
        ]
        opened = [Page(link) for link in links]
        for page in opened:
            if view:
                await page.say(view=view)
        yield opened
        for link in links:
            await link.close()


def running(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(4 * WAIT):
            await test()

    asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0.01)


# who may look


@pytest.mark.parametrize(
    "path", ["/", "/secre/", "/secret%20/", "/app.js", "/wrong/live", "/secr%C3%A9t/", "//", "/.."]
)
def test_nothing_without_the_token(idle: WebServer, path: str) -> None:
    assert _answer(idle, path)[0] == 403


@pytest.mark.parametrize(
    ("path", "kind", "content"),
    [
        ("/secret/", "text/html", b"<!doctype html>"),
        ("/secret/app.js", "text/javascript", b"WebSocket"),
        ("/secret/style.css", "text/css", b":focus-visible"),
    ],
)
def test_page(idle: WebServer, path: str, kind: str, content: bytes) -> None:
    status, headers, body = _answer(idle, path)
    assert status == 200 and headers["Content-Type"].startswith(kind) and content in body
    assert headers["Cache-Control"] == "no-store"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"")  # nothing from elsewhere


@pytest.mark.parametrize(
    "path",
    ["/secret/web.py", "/secret/../web.py", "/secret/%2e%2e/web.py", "/secret/..%2fweb.py", "/secret//etc/passwd"],
)
def test_no_other_files(idle: WebServer, path: str) -> None:
    status, _, body = _answer(idle, path)
    assert status in (403, 404) and b"import" not in body and b"root" not in body


def test_the_token_without_a_slash(idle: WebServer) -> None:
    status, headers, _ = _answer(idle, "/secret")
    assert status == 302 and headers["Location"] == "/secret/"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:9000", 200),  # through a tunnel
        ("[::1]:8765", 200),
        ("192.168.1.7:8765", 200),
        ("rebound.example:8765", 403),
        ("localhost.rebound.example", 403),
        ("127.0.0.1.rebound.example", 403),
    ],
)
def test_host_names_of_others(idle: WebServer, host: str, status: int) -> None:
    assert _answer(idle, "/secret/", Host=host)[0] == status


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://127.0.0.1:1"])
def test_pages_of_others_may_not_connect(idle: WebServer, origin: str | None) -> None:
    async def connect() -> None:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await session.ws_connect(
                    f"http://127.0.0.1:{idle.port}/secret/live", headers={"Origin": origin} if origin else {}
                )
            assert caught.value.status == 403

    running(connect)


def _answer(server: WebServer, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Sent as it is: clients tidy paths."""
    with socket.create_connection(("127.0.0.1", server.port), WAIT) as link:
        fields = {"Host": f"127.0.0.1:{server.port}", "Connection": "close", **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        link.sendall(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
        data = b"".join(iter(lambda: link.recv(65536), b""))
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


# pictures


def test_both_sides_of_one_frame(pipeline: Pipeline, server: WebServer) -> None:
    async def look() -> None:
        async with pages(server) as (page,):
            number = pipeline.put(level(40), level(160))
            header, parts = await page.picture()
            assert (header["number"], header["width"], header["height"]) == (number, 320, 180)
            before, after = decoded(parts["before"]), decoded(parts["after"])
            assert before.shape == after.shape == (180, 320, 3)
            # Limited range: (Y − 16)·255/219.
            assert abs(before.astype(int) - 28).max() <= 2 and abs(after.astype(int) - 168).max() <= 2

    running(look)


@pytest.mark.parametrize(
    ("frame", "room", "size"),
    [
        ((1280, 720), (640, 4000), (640, 360)),
        ((1280, 720), (4000, 180), (320, 180)),
        ((1280, 720), (4000, 4000), (1280, 720)),  # never enlarged
        ((853, 481), (4000, 4000), (853, 481)),
        ((853, 481), (500, 500), (500, 282)),
        ((720, 1280), (500, 500), (281, 500)),
        ((4000, 20), (100, 100), (100, 16)),
    ],
)
def test_size_is_that_of_the_viewer(
    pipeline: Pipeline, server: WebServer, frame: tuple[int, int], room: tuple[int, int], size: tuple[int, int]
) -> None:
    async def look() -> None:
        async with pages(server, view={**FULL, "width": room[0], "height": room[1]}) as (page,):
            pipeline.put(level(40, *frame), level(160, *frame))
            header, parts = await page.picture()
            assert (header["width"], header["height"]) == size
            assert decoded(parts["after"]).shape == (size[1], size[0], 3)

    running(look)


def test_only_what_is_needed(pipeline: Pipeline, server: WebServer) -> None:
    frame = tagged(dim_frame(0, 853, 481, "yuv420p"))
    whole = to_rgb(frame, (853, 481)).astype(int)

    async def look() -> None:
        async with pages(server, view={**FULL, "before": None, "after": [0.5, 1]}) as (page,):
            pipeline.put(frame, frame)
            header, parts = await page.picture()
            assert header["before"] is None and "before" not in parts
            begin, end, length = header["after"]
            assert begin % 16 == 0 and begin <= 0.5 * 853 < begin + 16 and end == 853 and length == len(parts["after"])
            assert np.abs(decoded(parts["after"]) - whole[:, begin:end]).mean() < 6  # noise, 4:2:0
            await page.say(view={**FULL, "before": [0, 0.25], "after": None}, taken=1)
            pipeline.put(frame, frame)
            header, parts = await page.picture()
            assert header["after"] is None and header["before"][:2] == [0, 224]
            assert decoded(parts["before"]).shape == (481, 224, 3)

    running(look)


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
def test_colours(matrix: str, full_range: bool) -> None:
    frame = av.VideoFrame(64, 48, "yuv420p")
    for plane, code in zip(frame.planes, (120, 90, 200), strict=True):
        plane.update(bytes([code]) * plane.buffer_size)
    frame.colorspace, frame.color_range = {"bt601": 6, "bt709": 1}[matrix], 2 if full_range else 1
    # ITU-R BT.601 and BT.709
    red, blue = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}[matrix]
    luma = 120 / 255 if full_range else (120 - 16) / 219
    cb, cr = ((code - 128) / (255 if full_range else 224) for code in (90, 200))
    r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    expected = 255 * np.clip([r, (luma - red * r - blue * b) / (1 - red - blue), b], 0, 1)
    rgb = to_rgb(frame, (64, 48))
    assert np.abs(rgb - expected).max() <= 2
    assert np.abs(decoded(jpeg(rgb, (0, 64), 85)) - expected).max() <= 4


def test_newest_wins_and_waits_for_room(pipeline: Pipeline, server: WebServer) -> None:
    async def look() -> None:
        async with pages(server) as (page,):
            pipeline.put()
            assert (await page.picture())[0]["number"] == 1
            for number in range(2, 7):
                pipeline.put()
                await until(lambda number=number: server._newest.frame.number == number)  # type: ignore
            await page.no_picture()
            await page.say(taken=1)
            assert (await page.picture())[0]["number"] == 6
            await page.say(taken=6)
            await page.no_picture()  # nothing newer
            assert (await page.status(lambda status: True))["skipped"] == 4

    running(look)


def test_latency_goes_to_the_pipeline(pipeline: Pipeline, server: WebServer) -> None:
    async def look() -> None:
        async with pages(server) as (page,):
            for number in range(1, 4):
                pipeline.put()
                assert (await page.picture())[0]["number"] == number
                await page.say(painted=number, taken=number)
            await page.say(painted=99)  # never sent
            status = await page.status(lambda status: status["latency_ms"] is not None)
            assert pipeline.painted == [1, 2, 3] and 0 < status["latency_ms"] < 1000 * WAIT and status["fps"] > 0
            assert (status["dropped"], status["device"], status["source"]) == (7, "a device", "a source")

    running(look)


def test_snapshot_is_what_was_sent_last_in_full_size(pipeline: Pipeline, server: WebServer) -> None:
    frame = tagged(dim_frame(3, 641, 361, "yuv420p"))

    async def look() -> None:
        async with pages(server, view={**FULL, "width": 100}) as (page,):
            pipeline.put(level(40, 641, 361), frame)
            await page.picture()
            pipeline.put()
            await page.say(snapshot=True)
            header, parts = await page.picture()
            assert header == {"snapshot": 1}
            assert np.array_equal(decoded(parts["snapshot"], "png_pipe"), to_rgb(frame, (641, 361)))

    running(look)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        "[" * 3000,
        '{"view": {"width": 0, "height": 9, "before": null, "after": null}}',
        '{"view": {"width": 99999999, "height": 9, "before": null, "after": null}}',
        '{"view": {"width": 9, "height": 9, "before": [0.5, 0.5], "after": null}}',
        '{"view": {"width": 9, "height": 9, "before": [-1, 2], "after": null}}',
        '{"view": {"width": NaN, "height": Infinity, "before": null, "after": null}}',
        '{"view": {"width": 9, "height": 9, "before": null}}',
        '{"view": 3}',
        '{"strength": 9}',
        '{"strength": NaN}',
        '{"strength": "1"}',
        '{"smoothing": null}',
        "x" * 10_000,
    ],
)
def test_what_no_page_says(pipeline: Pipeline, server: WebServer, text: str) -> None:
    async def look() -> None:
        async with pages(server, 2) as (page, other):
            await page.link.send_str(text)
            async with asyncio.timeout(WAIT):
                while (message := await page.link.receive()).type is aiohttp.WSMsgType.TEXT:
                    pass
            assert message.type is aiohttp.WSMsgType.CLOSE and message.data in (1008, 1009)
            pipeline.put()
            await other.picture()
            assert (pipeline.strength, pipeline.smoothing) == (1.0, 0.5)

    running(look)


# several


def test_strength_of_one_moves_the_others(pipeline: Pipeline, server: WebServer) -> None:
    async def look() -> None:
        async with pages(server, 2) as (one, other):
            await one.say(strength=1.4, smoothing=2)
            status = await other.status(lambda status: status["strength"] == 1.4)
            assert status["smoothing"] == 2 and (pipeline.strength, pipeline.smoothing) == (1.4, 2)
            pipeline.strength = 0.3  # by a key of a window, say
            await one.status(lambda status: status["strength"] == 0.3)

    running(look)


def test_one_encode_for_those_who_want_the_same(
    pipeline: Pipeline, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, int]] = []

    def counted(rgb: Any, columns: tuple[int, int], quality: int) -> bytes:
        made.append(columns)
        return jpeg(rgb, columns, quality)

    monkeypatch.setattr("rtlit.live.web_pictures.jpeg", counted)

    async def look() -> None:
        async with pages(server, 3) as (one, same, different):
            await different.say(view={**FULL, "after": [0.5, 1]})
            await until(lambda: any(each.view and each.view.after == (0.5, 1) for each in server._viewers))
            pipeline.put()
            pictures = [await page.picture() for page in (one, same, different)]
            assert pictures[0] == pictures[1] != pictures[2]
            assert sorted(made) == [(0, 320), (0, 320), (160, 320)]

    running(look)


def test_a_slow_viewer_and_one_that_leaves(pipeline: Pipeline, server: WebServer) -> None:
    big = tagged(dim_frame(0, 1920, 1080, "yuv420p"))

    async def look() -> None:
        async with pages(server, 3) as (quick, slow, leaver):
            pipeline.put(big, big)
            await slow.link.receive()  # and never again
            await leaver.picture()
            leaver.link._response.connection.transport.abort()  # without a word
            for number in range(1, 21):
                header, _ = await quick.picture()
                assert header["number"] == number
                await quick.say(taken=number, painted=number)
                pipeline.put(level(40), level(160))
            await until(lambda: len(server._viewers) == 2 and pipeline.painted == list(range(1, 21)))
            assert max(len(viewer.frames) for viewer in server._viewers) <= 4

    running(look)


def test_a_slow_connection_gets_smaller_pictures(pipeline: Pipeline, server: WebServer) -> None:
    frame = tagged(dim_frame(0, 640, 360, "yuv420p"))

    async def look() -> None:
        async with pages(server) as (page,):

            async def size_after(pause: float) -> int:
                number = pipeline.put(frame, frame)
                header, _ = await page.picture()
                await asyncio.sleep(pause)
                await page.say(taken=number)
                return int(header["after"][2])

            best = await size_after(0.2)
            while await size_after(0.2) > 0.25 * best:
                pass
            while await size_after(0) < best:
                pass

    running(look)


def test_no_more_than_so_many(server: WebServer) -> None:
    async def look() -> None:
        async with pages(server, MAX_VIEWERS, view=None):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                async with pages(server):
                    pass
            assert caught.value.status == 503

    running(look)


# the server's life


def test_serve_until_the_source_ends(pipeline: Pipeline) -> None:
    ready = threading.Event()
    urls: list[str] = []

    def on_ready(url: str) -> None:
        urls.append(url)
        ready.set()

    thread = threading.Thread(target=serve, args=(pipeline,), kwargs={"port": 0, "on_ready": on_ready, "mirror": True})
    thread.start()
    assert ready.wait(WAIT)

    async def look() -> None:
        base = urls[0].rstrip("/").rpartition("/")[0]
        async with aiohttp.ClientSession() as session:
            link = await session.ws_connect(f"{urls[0]}live", headers={"Origin": base})
            page = Page(link)
            assert (await page.status(lambda status: True))["mirror"] is True
            pipeline.end()
            await page.status(lambda status: status["ended"] == "The source has ended.")
            assert (await link.receive()).type is aiohttp.WSMsgType.CLOSE

    running(look)
    thread.join(WAIT)
    assert not thread.is_alive()
    assert len(urls[0].split("/")[3]) >= 32  # a token of its own


def test_serve_until_stop(pipeline: Pipeline) -> None:
    stop, before = threading.Event(), threading.active_count()
    stop.set()
    serve(pipeline, port=0, on_ready=lambda url: None, stop=stop)  # type: ignore[arg-type]
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", None, "the port is taken; choose another"),
        ("127.0.0.1", 70000, "there is no such port"),
        ("192.0.2.1", 8765, "can't listen there"),
    ],
)
def test_no_such_address(pipeline: Pipeline, server: WebServer, host: str, port: int | None, message: str) -> None:
    before = threading.active_count()
    with pytest.raises(RtlitError) as caught:
        serve(pipeline, host=host, port=port or server.port)  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{host}:{port or server.port}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value) and threading.active_count() == before


def test_without_aiohttp(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "aiohttp.web", None)
    with pytest.raises(RtlitError, match=r"needs aiohttp.*pip install 'rtlit\[live\]'"):
        WebServer(pipeline, port=0).start()  # type: ignore[arg-type]


def test_view_says_what_is_wrong() -> None:
    with pytest.raises(UsageError, match="is not a view"):
        View.from_message({"width": 3})


# the page


@pytest.mark.skipif(find_chromium() is None, reason="Chromium isn't installed")
def test_page_in_chromium(pipeline: Pipeline, server: WebServer) -> None:
    moving = threading.Event()

    def feed() -> None:
        while not moving.wait(0.1):
            pipeline.put(level(40), coloured)

    coloured = level(160, chroma=(100, 150))
    expected = to_rgb(coloured, (320, 180))[0, 0].tolist()

    async def look() -> None:
        async with Browser.started() as browser:
            page = await browser.page(f"http://127.0.0.1:{server.port}/secret/")
            await page.until("document.getElementById('latency').textContent != '–'")
            colour = "[...canvas.getContext('2d').getImageData({} * canvas.width, 9, 1, 1).data]"
            assert abs((await page.value(colour.format(0.25)))[0] - 28) < 4  # before
            after = (await page.value(colour.format(0.75)))[:3]
            assert np.allclose(after, expected, atol=4), (after, expected)
            left, top, width, height = await page.value(
                "Object.values(split.getBoundingClientRect().toJSON()).slice(0, 4)"
            )
            await page.drag((left + 0.5 * width, top + 9), (left + 0.8 * width, top + 9))
            dragged = int(await page.value("split.value"))
            assert abs(dragged - 800) <= 30  # figures that need another line move the picture
            await page.until(f"{colour.format(0.75)}[0] < 40")
            await page.key("ArrowLeft")
            assert int(await page.value("split.value")) == dragged - 20
            await page.key("m")
            assert await page.value("document.getElementById('mirror').getAttribute('aria-pressed')") == "true"
            await page.until(f"{colour.format(0.1)}[0] < 40 && {colour.format(0.95)}[0] > 160")
            await page.key("b")
            await page.until(f"{colour.format(0.95)}[0] < 40")
            await page.value("strength.focus()")
            await page.key("ArrowRight")
            await until(lambda: pipeline.strength == 1.05)
            pipeline.strength = 0.5
            await page.until("strength.value == 0.5")
            pipeline.notice = "camera unplugged; waiting for it"
            await page.until("notice.textContent == 'camera unplugged; waiting for it'")
            server.stop()
            await page.until("notice.textContent == 'rtlit has ended.'")
            assert page.complaints == []

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        running(look)
    finally:
        moving.set()
        feeder.join()
