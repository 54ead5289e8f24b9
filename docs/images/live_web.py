"""Makes pictures of the live page in Chromium: dark and wide, light and narrow.

python docs/images/live_web.py                       # live-web.jpg, live-web-light.jpg: the example clip
python docs/images/live_web.py lavfi:testsrc2=size=1280x720:rate=30
"""

from __future__ import annotations

import asyncio
import base64
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browser import Browser, BrowserPage  # noqa: E402

from rtlit.live.pipeline import LivePipeline  # noqa: E402
from rtlit.live.source import LiveSource, SourceSettings  # noqa: E402
from rtlit.live.web import WebServer  # noqa: E402
from rtlit.settings import EnhanceSettings  # noqa: E402

SECONDS = 7  # until the figures are of what is shown
LOOKS = {"live-web": (1280, 900, 1, "dark"), "live-web-light": (420, 660, 2, "light")}


async def take(page: BrowserPage, name: str) -> None:
    """One look at the page."""
    width, height, scale, scheme = LOOKS[name]
    metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
    await page.call("Emulation.setDeviceMetricsOverride", **metrics)
    await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    await asyncio.sleep(SECONDS)
    shot = await page.call("Page.captureScreenshot", format="jpeg", quality=70)
    (HERE / f"{name}.jpg").write_bytes(base64.b64decode(shot["data"]))


async def show(url: str) -> None:
    """Open the page, move the line, look."""
    async with Browser.started() as browser:
        page = await browser.page(url)
        await page.until("document.getElementById('latency').textContent != '–'")
        await page.value("split.value = 520; split.dispatchEvent(new Event('input'))")
        for name in LOOKS:
            await take(page, name)


def main() -> None:
    source = sys.argv[1] if len(sys.argv) > 1 else "examples/juggler.mp4"
    pipeline = LivePipeline(LiveSource(SourceSettings(url=source, loop=True)), EnhanceSettings(strength=1.4))
    pipeline.start()
    server = WebServer(pipeline, port=0)
    try:
        asyncio.run(show(server.start()))
    finally:
        server.stop()
        pipeline.stop()


if __name__ == "__main__":
    main()
