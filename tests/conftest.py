"""Shared by all tests: the real clip, and a frame of it as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent
CLIP = ROOT / "examples" / "juggler.mp4"


@pytest.fixture(scope="session")
def clip() -> Path:
    """A real backlit clip: 1280×720, 24 fps, 247 frames, H.264."""
    return CLIP


@pytest.fixture(scope="session")
def picture() -> NDArray[np.uint8]:
    """A frame of the clip: R'G'B' [720, 1280, 3]."""
    import av

    with av.open(str(CLIP)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")
