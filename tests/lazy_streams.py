"""Streams of a device that takes its time: what is put on a lane is done later, in any order that its events allow.

`rtlit.backends.streams.HostStreams` do everything at once, which hides every wait that is missing. These keep each
lane's work in a queue, and do it when somebody waits, a step at a time on lanes drawn by lot; so a copy that isn't
waited for finds, or leaves, what was there before. Memory that nothing was written to holds rubbish.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

LANES = ("upload", "compute", "download", "others")  # the last one is other libraries'


class LazyMark:
    """A point in a lane's work."""

    def __init__(self, streams: LazyStreams) -> None:
        self._streams = streams
        self.step: int | None = None  # at which it was reached

    def elapsed_since(self, earlier: LazyMark) -> float:
        assert self.step is not None and earlier.step is not None, "a mark that hasn't been reached has no time"
        return float(self.step - earlier.step)

    def wait(self) -> None:
        while self.step is None:
            self._streams.do_some()


class LazyStreams:
    """`rtlit.backends.streams.Streams`, by lot.

    Attributes:
        lazy: operations are put off; at first they are done at once, for what needs their results on the host.
    """

    def __init__(self, seed: int) -> None:
        self.device = torch.device("cpu")
        self.lazy = False
        self._random = random.Random(seed)
        # Some lanes are a hundred times slower than others.
        self._speeds = {lane: 100 ** self._random.random() for lane in LANES}
        self._queues: dict[str, deque[Callable[[], None] | LazyMark | tuple[str, LazyMark]]]
        self._queues = {lane: deque() for lane in LANES}
        self._steps = 0

    @contextmanager
    def on(self, lane: str) -> Iterator[None]:
        with _Deferred(self, lane) if self.lazy else torch.no_grad():
            yield

    def put(self, lane: str, work: Callable[[], None]) -> None:
        self._queues[lane].append(work)

    def mark(self, lane: str) -> LazyMark:
        mark = LazyMark(self)
        self._queues[lane].append(mark)
        return mark

    def after(self, lane: str, mark: LazyMark) -> None:
        self._queues[lane].append((lane, mark))

    def after_others(self, lane: str) -> None:
        self.after(lane, self.mark("others"))

    def staging(self, count: int) -> Tensor:
        return rubbish(torch.empty(count, dtype=torch.uint8))

    def buffer(self, count: int) -> Tensor:
        with self.on("compute"):
            bytes_ = torch.zeros(count, dtype=torch.uint8)
        zeroed = self.mark("compute")
        for lane in LANES[:3]:
            self.after(lane, zeroed)
        return bytes_

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        return work

    def do_some(self) -> None:
        """Do the next thing of a lane that can go on."""
        ready = [lane for lane in LANES if self._queues[lane] and not self._waits(self._queues[lane][0])]
        assert ready, "what is waited for never comes"
        lane = self._random.choices(ready, [self._speeds[lane] for lane in ready])[0]
        item = self._queues[lane].popleft()
        self._steps += 1
        if isinstance(item, LazyMark):
            item.step = self._steps
        elif callable(item):
            with torch.inference_mode():
                item()

    def finish(self) -> None:
        """Do all."""
        while any(self._queues.values()):
            self.do_some()

    def _waits(self, item: object) -> bool:
        return isinstance(item, tuple) and item[1].step is None


def rubbish(tensor: Tensor) -> Tensor:
    """The same memory, filled with anything."""
    tensor.reshape(-1).view(torch.uint8).fill_(0xA5)
    return tensor


class _Deferred(TorchDispatchMode):
    """Puts torch's operations off; views are made at once."""

    def __init__(self, streams: LazyStreams, lane: str) -> None:
        super().__init__()
        self._streams, self._lane = streams, lane

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        returned = [result.alias_info for result in operation._schema.returns]
        if operation._schema.is_mutable:
            self._streams.put(self._lane, lambda: operation(*args, **kwargs))
            return args[0]
        if any(returned):
            return operation(*args, **kwargs)
        result = rubbish(operation(*args, **kwargs))  # for its shape
        self._streams.put(self._lane, lambda: result.copy_(operation(*args, **kwargs)))
        return result
