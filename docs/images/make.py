"""Makes this folder's pictures: frames of examples/juggler.mp4 before | after.

    python docs/images/make.py
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pyvips

from rtlit import Enhancer

HERE = Path(__file__).parent
SECONDS = (7.0,)
WIDTH = 720  # pixels of each half


def main() -> None:
    """Enhance the clip as `rtlit enhance-video` does, and keep the frames at `SECONDS`."""
    wanted, enhancer = list(SECONDS), Enhancer("cpu")
    with av.open(str(HERE.parents[1] / "examples" / "juggler.mp4")) as clip:
        for frame in clip.decode(video=0):
            after = enhancer(frame)
            if frame.time >= wanted[0]:
                pair = [each.to_ndarray(format="rgb24") for each in (frame, after)]
                sheet = pyvips.Image.new_from_array(np.concatenate(pair, 1)).resize(WIDTH / frame.width)
                sheet.write_to_file(str(HERE / f"juggler-{wanted.pop(0):.1f}s.jpg[Q=88]"))
                if not wanted:
                    return


if __name__ == "__main__":
    main()
