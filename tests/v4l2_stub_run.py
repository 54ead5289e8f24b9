"""Run by test_live_source with v4l2_stub preloaded: what a camera does in a life, told as JSON."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

from rtlit.errors import DeviceError
from rtlit.live import cameras, source as source_module
from rtlit.live.source import Captured, LiveSource, SourceSettings

FOLDER = Path(sys.argv[1])
cameras._DEV, cameras._SYS = FOLDER, FOLDER / "sys"
source_module.STALL_SECONDS, source_module.SILENCE_SECONDS, source_module.RETRY_SECONDS = 0.6, 1.5, 0.1


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"waited in vain; said {said}, {source.state}, {len(found)} frames")
        time.sleep(0.005)


def refusal(settings: SourceSettings) -> str:
    try:
        LiveSource(settings).open()
    except DeviceError as error:
        return str(error)
    return ""


def fault(name: str, over: Callable[[], Any]) -> None:
    (FOLDER / f"video0.{name}").touch()
    until(over)
    (FOLDER / f"video0.{name}").unlink()


told: dict[str, Any] = {"listed": [[c.name, len(c.formats)] for c in cameras.list_cameras()]}
(FOLDER / "video0.busy").touch()
told["busy"] = refusal(SourceSettings())
(FOLDER / "video0.busy").unlink()
told["size"] = refusal(SourceSettings(size=(1000, 700)))
raw = LiveSource(SourceSettings(camera="0", input_format="yuyv422"))
first = next(iter(raw.frames()))
told["yuyv"] = [first.frame.format.name, first.frame.width, first.frame.height, int(first.frame.colorspace)]
raw.close()
luma = first.frame.to_ndarray()[..., 0]  # the frame outlives its camera
told["kept"] = [int(luma.min()), int(luma.max())]

said: list[str] = []
found: list[Captured] = []
source = LiveSource(SourceSettings(camera="stub"), said.append)
source.open()
told["description"] = source.description
taker = Thread(target=lambda: found.extend(source.frames()), daemon=True)
taker.start()
until(lambda: len(found) >= 30)
told["formats"] = [list(each) for each in {(c.frame.format.name, c.frame.width, c.frame.height) for c in found}]
told["gap_ms"] = 1000 * statistics.median(b.captured - a.captured for a, b in pairwise(found[:30]))
stamped = all(abs(c.captured - float((c.frame.pts or 0) * c.frame.time_base)) < 1e-5 for c in found[5:30])
told["clock"] = "the driver's" if stamped else "ours"
fault("damaged", lambda: source.state == "stalled")
until(lambda: source.state == "live")
told["skipped"] = source.skipped
fault("frozen", lambda: source.state == "reconnecting")
until(lambda: source.state == "live")
(FOLDER / "video0").unlink()
until(lambda: source.state == "reconnecting")
(FOLDER / "video1").touch()
until(lambda: source.state == "live")
until(lambda: found[-1].connection >= 3)
for number in range(4, 12):  # PyAV's and FFmpeg's memory of a camera that is gone
    (FOLDER / "video1").unlink()
    until(lambda: source.state == "reconnecting")
    (FOLDER / "video1").touch()
    until(lambda number=number: found[-1].connection >= number)
told["connections"] = sorted({c.connection for c in found})
source.close()
taker.join(10)
told["said"], told["state"] = said, source.state
print(json.dumps(told))
