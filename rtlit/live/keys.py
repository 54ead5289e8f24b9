"""What each key of the window does: one table for the window and for its help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtlit.live.overlay import Panel
from rtlit.live.sdl import sdl2

if TYPE_CHECKING:
    from rtlit.live.controls import Controls

Action = Callable[["Controls", int], None]  # the second is SDL's modifiers


@dataclass(frozen=True)
class Key:
    """One line of the help: the key's name, what it does, SDL's codes of it, and the doing."""

    name: str
    what: str
    codes: tuple[int, ...]
    do: Action


def _by(sign: int) -> tuple[Action, Action]:
    """Up or down, right or left."""

    def strength(controls: Controls, modifiers: int) -> None:
        controls.change_strength(sign * (0.02 if modifiers & sdl2.KMOD_SHIFT else 0.1))

    def sideways(controls: Controls, modifiers: int) -> None:
        if modifiers & sdl2.KMOD_CTRL:
            controls.move_split(controls.preferences.split + sign * (0.005 if modifiers & sdl2.KMOD_SHIFT else 0.05))
        else:
            controls.change_smoothing(sign * 0.1)

    return strength, sideways


(_stronger, _right), (_weaker, _left) = _by(1), _by(-1)

KEYS: tuple[Key, ...] = (
    Key("Up", "stronger (Shift: a little)", (sdl2.SDLK_UP,), _stronger),
    Key("Down", "weaker (Shift: a little)", (sdl2.SDLK_DOWN,), _weaker),
    Key("Right", "smoother over time (Ctrl: move the split)", (sdl2.SDLK_RIGHT,), _right),
    Key("Left", "less smooth (Ctrl: move the split)", (sdl2.SDLK_LEFT,), _left),
    Key(
        "0",
        "strength, smoothing, split as at first",
        (sdl2.SDLK_0, sdl2.SDLK_KP_0),
        lambda c, _: c.reset(),
    ),
    Key("C", "compare: before and after, at the mouse", (sdl2.SDLK_c,), lambda c, _: c.toggle_compare()),
    Key("B", "before only: hold it, or tap it to stay", (sdl2.SDLK_b,), lambda c, _: c.toggle_before()),
    Key("M", "mirror", (sdl2.SDLK_m,), lambda c, _: c.toggle_mirror()),
    Key("Space", "freeze, and go on", (sdl2.SDLK_SPACE,), lambda c, _: c.toggle_freeze()),
    Key("S", "snapshot", (sdl2.SDLK_s,), lambda c, _: c.snapshot()),
    Key("R", "record, and stop recording", (sdl2.SDLK_r,), lambda c, _: c.toggle_record()),
    Key("F, F11", "full screen (or double click)", (sdl2.SDLK_f, sdl2.SDLK_F11), lambda c, _: c.toggle_full_screen()),
    Key("D, I", "figures: frames a second, latency", (sdl2.SDLK_d, sdl2.SDLK_i), lambda c, _: c.toggle_statistics()),
    Key("H, ?, F1", "this help", (sdl2.SDLK_h, sdl2.SDLK_QUESTION, sdl2.SDLK_F1), lambda c, _: c.toggle_help()),
    Key("Esc", "leave help, full screen; then quit", (sdl2.SDLK_ESCAPE,), lambda c, _: c.leave()),
    Key("Q", "quit", (sdl2.SDLK_q,), lambda c, _: c.quit()),
)
_DO = {code: key.do for key in KEYS for code in key.codes}
REPEATING = (sdl2.SDLK_UP, sdl2.SDLK_DOWN, sdl2.SDLK_LEFT, sdl2.SDLK_RIGHT)
CLOSING = (sdl2.SDLK_ESCAPE, sdl2.SDLK_q, sdl2.SDLK_RETURN, sdl2.SDLK_KP_ENTER, sdl2.SDLK_SPACE)

_HALF = len(KEYS) // 2
HELP = Panel(
    tuple(
        (left.name, left.what, right.name, right.what) for left, right in zip(KEYS[:_HALF], KEYS[_HALF:], strict=True)
    ),
    "center",
)


def code_of(keysym: object) -> int:
    """SDL's code of a key by the letter on it; by its place on an American keyboard where that is no Latin letter."""
    sym, scancode = int(keysym.sym), int(keysym.scancode)  # type: ignore[attr-defined]
    shifted = int(keysym.mod) & sdl2.KMOD_SHIFT  # type: ignore[attr-defined]
    if sym == sdl2.SDLK_SLASH and shifted:
        return int(sdl2.SDLK_QUESTION)
    if sym < 128 or sym & sdl2.SDLK_SCANCODE_MASK:
        return sym
    if sdl2.SDL_SCANCODE_A <= scancode <= sdl2.SDL_SCANCODE_Z:
        return int(sdl2.SDLK_a) + scancode - int(sdl2.SDL_SCANCODE_A)
    return int(sdl2.SDLK_0) if scancode == sdl2.SDL_SCANCODE_0 else sym


def action_of(code: int) -> Action | None:
    """What a key does."""
    return _DO.get(code)
