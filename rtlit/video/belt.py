"""Belt: a bounded queue between two threads that carries errors and can be stopped from either end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Stopped(Exception):
    """The consumer has gone; the producer should end quietly."""


class Belt(Generic[Item]):
    """First in, first out, bounded by bytes, so that small packets ride along with big frames.

    Iterating takes items until the producer closes the belt, and raises what the producer failed with.

    Args:
        capacity: bytes that may wait; a single larger item is let in when nothing else waits.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[tuple[Item, int]] = deque()
        self._waiting = 0
        self._changed = threading.Condition()
        self._closed = self._stopped = False
        self._error: BaseException | None = None

    def put(self, item: Item, size: int) -> None:
        """Add an item of `size` bytes, waiting for room.

        Raises:
            Stopped: the consumer called `stop`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not self._items or self._waiting + size <= self._capacity)
            if self._stopped:
                raise Stopped
            self._items.append((item, size))
            self._waiting += size
            self._changed.notify_all()

    def close(self, error: BaseException | None = None) -> None:
        """No more items; with an error, the consumer raises it at once, ahead of what waits."""
        with self._changed:
            self._closed, self._error = True, error
            self._changed.notify_all()

    def stop(self) -> None:
        """The consumer takes no more."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._closed or self._stopped)
                if self._error is not None:
                    raise self._error
                if not self._items:
                    return
                item, size = self._items.popleft()
                self._waiting -= size
                self._changed.notify_all()
            yield item
