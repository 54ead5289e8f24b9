"""The live picture in a browser: a page, and a WebSocket that carries pictures one way and settings the other."""

from __future__ import annotations

import asyncio
import errno
import hmac
import ipaddress
import json
import logging
import math
import secrets
import socket
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

from rtlit.errors import RtlitError, UsageError
from rtlit.live.web_pictures import Pictures, View

if TYPE_CHECKING:
    from aiohttp import web

    from rtlit.live.pipeline import LiveFrame, LivePipeline

MAX_VIEWERS = 16
_log = logging.getLogger(__name__)
_STATUS_EVERY = 0.5  # seconds
_RECENT = 5.0  # seconds that a viewer's rate and latency are taken over
_STEPS = ((0.35, 60), (0.5, 60), (0.7, 60), (1.0, 50), (1.0, 70), (1.0, 85))  # part of the size, quality of JPEG
_SLOW, _QUICK = 0.12, 0.06  # seconds from sending a picture to room for the next that ask for less, or allow more
_REMEMBERED = 4  # pictures sent to a viewer that it may still say are painted
_PAGE = {
    "": ("index.html", "text/html"),
    "app.js": ("app.js", "text/javascript"),
    "style.css": ("style.css", "text/css"),
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
}


def serve(
    pipeline: LivePipeline,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    token: str | None = None,
    on_ready: Callable[[str], object] = print,
    stop: threading.Event | None = None,
    mirror: bool = False,
) -> None:
    """Show a started pipeline in browsers, until Ctrl-C, `stop` or the source's end, which viewers are told.

    Args:
        host: the address to listen on; "0.0.0.0" for all, and then whoever has the URL may look and set.
        port: 0 takes a free one.
        token: what the URL must hold; None makes one.
        on_ready: gets the URL once it can be opened.
        mirror: pages begin mirrored.

    Raises:
        RtlitError: the port is taken or the address isn't this machine's, or aiohttp isn't installed.
    """
    server = WebServer(pipeline, host=host, port=port, token=token, mirror=mirror)
    on_ready(server.start())
    try:
        while not (pipeline.ended or (stop is not None and stop.is_set())):
            time.sleep(0.1)
    finally:
        server.stop()


@dataclass(eq=False)
class _Viewer:
    """A page that is open.

    Attributes:
        free: it has room for the next picture.
        frames: the last that were sent, by number. painted: (when, latency) of those that it showed.
        took: seconds from sending a picture to room for the next, smoothed; `step` goes by it.
        skipped: enhanced frames that it never got, because a newer one was there when it had room.
    """

    socket: web.WebSocketResponse
    view: View | None = None
    free: bool = False
    tell: bool = True
    snapshot: bool = False
    sent: int = 0
    sent_at: float = 0.0
    took: float = 0.0
    step: int = len(_STEPS) - 1
    skipped: int = 0
    frames: dict[int, LiveFrame] = field(default_factory=dict)
    painted: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=1000))
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class WebServer:
    """The server of `serve`, in a thread with an event loop of its own."""

    def __init__(
        self,
        pipeline: LivePipeline,
        *,
        host: str = "127.0.0.1",
        port: int = 8765,
        token: str | None = None,
        mirror: bool = False,
    ) -> None:
        self.pipeline, self.host, self.port, self.mirror = pipeline, host, port, mirror
        self.token = token or secrets.token_urlsafe(24)
        folder = resources.files("rtlit.live") / "page"
        self._page = {name: ((folder / file).read_bytes(), kind) for name, (file, kind) in _PAGE.items()}
        self._viewers: set[_Viewer] = set()
        self._newest: Pictures | None = None
        self._ending = False
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> str:
        """Listen; returns the URL.

        Raises:
            As `serve`.
        """
        try:
            import aiohttp.web  # noqa: F401
        except ModuleNotFoundError as error:
            raise RtlitError(f"the live picture in a browser needs {error.name}: pip install 'rtlit[live]'") from None
        self._loop = asyncio.new_event_loop()
        self._pool = ThreadPoolExecutor(2, "rtlit-jpeg")
        self._start_thread(self._loop.run_forever, "rtlit-web")
        try:
            asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        except (OSError, OverflowError) as error:
            self._end_loop()
            raise RtlitError(self._why_not(error)) from None
        self._start_thread(self._watch, "rtlit-web-frames")
        return f"http://{_shown_host(self.host)}:{self.port}/{self.token}/"

    def stop(self) -> None:
        """Tell the viewers, and end; again does nothing."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._end_loop()

    def _start_thread(self, target: Callable[[], object], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        for thread in self._threads:
            thread.join()
        self._pool.shutdown()
        self._loop.close()

    def _why_not(self, error: Exception) -> str:
        where = f"{self.host}:{self.port}"
        match error:
            case OSError(errno=errno.EADDRINUSE):
                return f"{where}: the port is taken; choose another, or 0 for a free one"
            case OSError(errno=errno.EACCES):
                return f"{where}: the port is not allowed; choose one above 1023, or 0 for a free one"
            case OverflowError():
                return f"{where}: there is no such port; choose one of 1 to 65535, or 0 for a free one"
        return f"{where}: can't listen there ({error.args[-1]}); choose an address of this machine"

    def _watch(self) -> None:
        number = 0
        while not self._stopped.is_set():
            frame = self.pipeline.wait(number, 0.1)
            if frame is not None:
                number = frame.number
                self._loop.call_soon_threadsafe(self._offer, frame)
            elif self.pipeline.ended:
                break

    async def _listen(self) -> None:
        from aiohttp import web

        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/{token}", self._to_page)
        app.router.add_get("/{token}/live", self._live)
        app.router.add_get("/{token}/{name}", self._file)
        app.router.add_get("/{token}/", self._file)
        app.on_response_prepare.append(self._add_headers)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.host, self.port).start()
        except BaseException:
            await self._runner.cleanup()
            raise
        self.port = self._runner.addresses[0][1]

    async def _close(self) -> None:
        self._ending = True
        viewers = list(self._viewers)
        for viewer in viewers:
            viewer.tell = True
            viewer.wake.set()
        # Each sends its last status and closes; who can't be reached is not waited for.
        deadline = time.monotonic() + 1
        while self._viewers and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await self._runner.cleanup()

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(_HEADERS)

    @property
    def _guard(self) -> Any:
        from aiohttp import web

        @web.middleware
        async def guard(request: web.Request, handler: Any) -> web.StreamResponse:
            token = request.path.split("/")[1]
            known = hmac.compare_digest(token.encode(), self.token.encode())
            if not known or not self._is_own(request.host):
                raise web.HTTPForbidden(text="The address must be the one that rtlit printed.\n")
            response: web.StreamResponse = await handler(request)
            return response

        return guard

    def _is_own(self, host: str) -> bool:
        """A name that others can't point at this machine: a page of theirs would be of the same origin then."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        with suppress(ValueError):
            return bool(ipaddress.ip_address(name.strip("[]")))
        return name.lower() in {"localhost", self.host.lower(), socket.gethostname().lower()}

    async def _to_page(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        raise web.HTTPFound(f"/{self.token}/")

    async def _file(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        try:
            body, kind = self._page[request.match_info.get("name", "")]
        except KeyError:
            raise web.HTTPNotFound() from None
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def _live(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import WSMsgType, web

        if request.headers.get("Origin") not in (f"http://{request.host}", f"https://{request.host}"):
            raise web.HTTPForbidden(text="Only the page of rtlit itself may connect.\n")
        if len(self._viewers) >= MAX_VIEWERS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_VIEWERS} pages are open already.\n")
        answer = web.WebSocketResponse(heartbeat=10, compress=False, max_msg_size=4096)
        await answer.prepare(request)
        viewer = _Viewer(answer)
        self._viewers.add(viewer)
        sender = asyncio.create_task(self._send(viewer))
        try:
            async for message in answer:
                if message.type is WSMsgType.TEXT:
                    self._hear(viewer, message.data)
        except UsageError as error:
            await answer.close(code=1008, message=str(error).encode()[:120])
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            self._viewers.discard(viewer)
        return answer

    def _offer(self, frame: LiveFrame) -> None:
        self._newest = Pictures(frame, self._pool)
        for viewer in self._viewers:
            viewer.wake.set()

    async def _send(self, viewer: _Viewer) -> None:
        """All that a viewer is sent, one after the other: so a slow one waits for itself alone."""
        told = 0.0
        try:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(viewer.wake.wait(), _STATUS_EVERY)
                viewer.wake.clear()
                if viewer.tell or time.monotonic() - told >= _STATUS_EVERY:
                    viewer.tell, told, ending = False, time.monotonic(), self._ending
                    await viewer.socket.send_json(self._status(viewer))
                    if ending:
                        break
                if viewer.snapshot and viewer.frames:
                    viewer.snapshot = False
                    frame = viewer.frames[max(viewer.frames)]
                    await viewer.socket.send_bytes(await Pictures(frame, self._pool).snapshot())
                if viewer.free and viewer.view and self._newest and self._newest.frame.number > viewer.sent:
                    await self._send_picture(viewer, self._newest, viewer.view)
        except ConnectionError:
            pass
        except Exception as error:
            _log.error("a picture for a browser failed: %r", error)  # the page connects again
        finally:
            await viewer.socket.close()

    async def _send_picture(self, viewer: _Viewer, pictures: Pictures, view: View) -> None:
        number = pictures.frame.number
        viewer.free = False
        viewer.skipped += number - viewer.sent - 1 if viewer.sent else 0
        viewer.sent = number
        viewer.frames[number] = pictures.frame
        if len(viewer.frames) > _REMEMBERED:
            del viewer.frames[min(viewer.frames)]
        message = await pictures.message(view, *_STEPS[viewer.step])
        viewer.sent_at = time.monotonic()
        await viewer.socket.send_bytes(message)

    def _hear(self, viewer: _Viewer, text: str) -> None:
        """What a page says: how it looks, that it has room, what it painted, what it sets.

        Raises:
            UsageError: something else.
        """
        try:
            message = json.loads(text)
            assert isinstance(message, dict)
        except (ValueError, AssertionError, RecursionError):
            raise UsageError("not a message of the page") from None
        if "view" in message:
            viewer.free = viewer.free or viewer.view is None
            viewer.view = View.from_message(message["view"])
        if "taken" in message:
            self._taken(viewer, message["taken"])
        if "painted" in message:
            self._painted(viewer, message["painted"])
        if "snapshot" in message:
            viewer.snapshot = True
        for name in ("strength", "smoothing"):
            if name in message:
                self._set(viewer, name, message[name])
        viewer.wake.set()

    def _taken(self, viewer: _Viewer, number: Any) -> None:
        viewer.free = True
        if number != viewer.sent:  # a page that rested, and goes on
            return
        viewer.took += 0.3 * (time.monotonic() - viewer.sent_at - viewer.took)
        change = -1 if viewer.took > _SLOW else 1 if viewer.took < _QUICK else 0
        if change and 0 <= viewer.step + change < len(_STEPS):
            viewer.step += change
            viewer.took = (_SLOW + _QUICK) / 2  # the new step gets its time

    def _painted(self, viewer: _Viewer, number: Any) -> None:
        frame = viewer.frames.get(number) if isinstance(number, int) else None
        if frame is None:
            return
        now = time.monotonic()
        viewer.painted.append((now, now - frame.captured))
        self.pipeline.shown(frame)

    def _set(self, viewer: _Viewer, name: str, value: Any) -> None:
        if not isinstance(value, int | float):
            raise UsageError(f"{name} must be a number")
        setattr(self.pipeline, name, float(value))
        for other in self._viewers - {viewer}:
            other.tell = True
            other.wake.set()

    def _status(self, viewer: _Viewer) -> dict[str, Any]:
        stats, now = self.pipeline.stats, time.monotonic()
        recent = [each for each in viewer.painted if each[0] > now - _RECENT]
        seconds = recent[-1][0] - recent[0][0] if len(recent) > 1 else 0
        ended = ""
        if self._ending:
            ended = str(self.pipeline.error or ("The source has ended." if self.pipeline.ended else "rtlit has ended."))
        return {
            "strength": self.pipeline.strength,
            "smoothing": self.pipeline.smoothing,
            "mirror": self.mirror,
            "fps": (len(recent) - 1) / seconds if seconds else 0,
            "latency_ms": 1000 * statistics.median(latency for _, latency in recent) if recent else None,
            "captured_fps": stats.captured_fps,
            "dropped": stats.dropped,
            "skipped": viewer.skipped,
            "enhance_ms": None if math.isnan(stats.enhance_ms) else stats.enhance_ms,
            "size": [stats.width, stats.height],
            "device": stats.backend,
            "source": stats.source,
            "state": stats.state,
            "notice": self.pipeline.notice,
            "ended": ended,
        }


def _shown_host(host: str) -> str:
    """What to type for an address that was listened on."""
    if host in ("0.0.0.0", "::", ""):
        # The address of the way out; a UDP socket sends nothing by that.
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way_out:
            way_out.connect(("192.0.2.1", 9))
            return str(way_out.getsockname()[0])
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
