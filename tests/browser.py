"""Chromium without a window, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # too small in containers
    "--remote-debugging-port=0",
)
WAIT = 30.0  # seconds that anything may take on a busy machine
_CODES = {"ArrowLeft": 37, "ArrowRight": 39}


def find_chromium() -> str | None:
    """The program, if there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """A running Chromium."""

    def __init__(self, session: Any, port: int) -> None:
        self._session, self._port = session, port

    @classmethod
    @asynccontextmanager
    async def started(cls) -> AsyncIterator[Browser]:
        import aiohttp

        program = find_chromium()
        assert program is not None
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            process = await asyncio.create_subprocess_exec(
                program,
                *FLAGS,
                f"--user-data-dir={profile}",
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                async with asyncio.timeout(WAIT):
                    said = Path(profile, "DevToolsActivePort")
                    while not (said.exists() and said.read_text().strip()):
                        assert process.returncode is None, "Chromium ended at once"
                        await asyncio.sleep(0.05)
                async with aiohttp.ClientSession() as session:
                    yield cls(session, int(said.read_text().split()[0]))
            finally:
                if process.returncode is None:
                    process.terminate()
                await process.wait()

    async def page(self, url: str) -> BrowserPage:
        async with self._session.put(f"http://127.0.0.1:{self._port}/json/new?{url}") as answer:
            target = await answer.json()
        link = await self._session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
        page = BrowserPage(link)
        await page.call("Runtime.enable")
        await page.call("Log.enable")
        await page.until(f"location == {url!r} && document.readyState == 'complete'")
        return page


class BetweenDocumentsError(Exception):
    """A tab that is leaving one document for another has nothing to evaluate expressions in."""


class BrowserPage:
    """A tab. `complaints`: its errors, and what its policy kept it from."""

    def __init__(self, link: Any) -> None:
        self._link, self._numbers = link, itertools.count(1)
        self.complaints: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._link.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(WAIT):
            while (message := await self._link.receive_json()).get("id") != number:
                if message.get("method") == "Runtime.exceptionThrown":
                    self.complaints.append(str(message["params"]["exceptionDetails"]))
                if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                    self.complaints.append(message["params"]["entry"]["text"])
        said = message.get("error", {}).get("message", "").lower()
        if "execution context" in said or "navigated" in said:
            raise BetweenDocumentsError(said)
        assert "error" not in message, message
        return dict(message["result"])

    async def value(self, expression: str) -> Any:
        """What an expression of the page's gives; elements by their id."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression: str) -> None:
        async with asyncio.timeout(WAIT):
            while True:
                with suppress(BetweenDocumentsError):
                    if await self.value(expression):
                        return
                await asyncio.sleep(0.05)

    async def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    async def key(self, key: str) -> None:
        code = _CODES.get(key, ord(key[0].upper()))
        for kind in ("rawKeyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)
