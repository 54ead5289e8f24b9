"""Makes tests/data/juggler_frames.npz, for machines without PyAV: frames of examples/juggler.mp4, made smaller.

    python bench/clip_frames.py

Four consecutive frames and the last two, as planes y [6, 144, 256], u and v [6, 72, 128] of yuv420p (BT.709, limited),
and their times in seconds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
CLIP, FRAMES = ROOT / "examples" / "juggler.mp4", ROOT / "tests" / "data" / "juggler_frames.npz"
HEIGHT, WIDTH = 144, 256


def main() -> None:
    """Decode, scale, write."""
    import av

    from rtlit.avframe import planes_of

    with av.open(str(CLIP)) as container:
        frames = [frame.reformat(WIDTH, HEIGHT, "yuv420p") for frame in container.decode(video=0)]
    chosen = frames[:4] + frames[-2:]
    planes = [np.stack(each) for each in zip(*map(planes_of, chosen), strict=True)]
    seconds = np.array([float(frame.pts * frame.time_base) for frame in chosen])
    np.savez_compressed(FRAMES, **dict(zip("yuv", planes, strict=True)), seconds=seconds)
    print(f"{FRAMES}: {FRAMES.stat().st_size} bytes")


if __name__ == "__main__":
    main()
