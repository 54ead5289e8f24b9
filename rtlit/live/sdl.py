"""SDL 2 through PySDL2, without its remark on which library it found."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    import sdl2

__all__ = ["sdl2", "sdl_error"]


def sdl_error() -> str:
    """What SDL says went wrong last, for people."""
    return sdl2.SDL_GetError().decode(errors="replace").strip() or "no reason given"
