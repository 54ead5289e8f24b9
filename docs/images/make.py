"""Makes this folder's pictures: the scenes of examples/ in simulated backlight, a frame of the clip before | after, and
what --denoise does in the dark.

    python docs/images/make.py
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import av
import numpy as np
import pyvips
import torch

from rtlit import Enhancer
from rtlit.training.simulate import SimulationSettings, add_noise, expose, simulate

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
SECONDS = (7.0,)
WIDTH = 720  # pixels of each half
THIRD = 480  # pixels of each third
BACKLIT_EV, BACKLIT_SEED = -3.5, 2
DARK_FRAMES, DARK_EV, DARK_NOISE = 16, -3.0, -4.0  # log10 of the shot noise's variance at linear 1
CROP = (slice(300, 480), slice(610, 850))  # rows, columns; shown at twice the size
BAND = (slice(0, 180), slice(0, 480))


def before_after() -> None:
    """Enhance the clip as `rtlit enhance-video` does, and keep the frames at `SECONDS`."""
    wanted, enhancer = list(SECONDS), Enhancer("cpu")
    with av.open(str(EXAMPLES / "juggler.mp4")) as clip:
        for frame in clip.decode(video=0):
            after = enhancer(frame)
            if frame.time >= wanted[0]:
                pair = [each.to_ndarray(format="rgb24") for each in (frame, after)]
                sheet = pyvips.Image.new_from_array(np.concatenate(pair, 1)).resize(WIDTH / frame.width)
                sheet.write_to_file(str(HERE / f"juggler-{wanted.pop(0):.1f}s.jpg[Q=88]"))
                if not wanted:
                    return


def backlit_sheet() -> None:
    """Two scenes, one above the other: in simulated backlight | lifted | as they were filmed."""
    with av.open(str(EXAMPLES / "juggler.mp4")) as clip:
        juggler = next(clip.decode(video=0)).to_ndarray(format="rgb24")
    bedroom = pyvips.Image.new_from_file(str(EXAMPLES / "bedroom.jpg")).numpy()
    light = SimulationSettings(0, 0, 1, 0, 0, foreground=(BACKLIT_EV, BACKLIT_EV), background=(0.0, 0.0))
    rows = []
    for scene in (bedroom, juggler):
        truth = torch.from_numpy(scene).permute(2, 0, 1)[None].float() / 255
        dark, _ = simulate(truth, light, torch.Generator().manual_seed(BACKLIT_SEED))
        codes = (dark[0] * 255).round().byte().permute(1, 2, 0).numpy()
        row = pyvips.Image.new_from_array(np.concatenate([codes, Enhancer("cpu")(codes), scene], 1))
        rows.append(row.resize(THIRD / scene.shape[1]))
    pyvips.Image.arrayjoin(rows, across=1).write_to_file(str(HERE / "backlit.jpg[Q=88]"))


def denoise_sheet() -> None:
    """Above: the clip in too little light, lifted | lifted with --denoise 0.5 | lifted, had there been no noise.

    Below, with 5 times the contrast: a dark gradient on a wall with a little noise, in the same three ways. In 8 bits,
    noise is what keeps its tones apart; the filter averages them, and what had no noise shows bands.
    """
    with av.open(str(EXAMPLES / "juggler.mp4")) as clip:
        frames = [frame.to_ndarray(format="rgb24") for frame in islice(clip.decode(video=0), DARK_FRAMES)]
    scene = [torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255 for frame in frames]
    across, down = torch.linspace(0, 1, BAND[1].stop), torch.linspace(0, 1, BAND[0].stop)[:, None]
    wall = (0.3 + 0.1 * (across + 0.3 * down)).expand(1, 3, -1, -1)
    pictures = [part[CROP].repeat(2, 0).repeat(2, 1) for part in _three_ways(scene, DARK_NOISE)]
    walls = _three_ways([wall] * DARK_FRAMES, DARK_NOISE - 1)
    middle = walls[2].mean()
    stretched = [((part - middle) * 5 + 128).clip(0, 255).astype(np.uint8) for part in walls]
    sheet = np.concatenate([np.concatenate(pictures, 1), np.concatenate(stretched, 1)])
    pyvips.Image.new_from_array(sheet).write_to_file(str(HERE / "denoise.jpg[Q=88]"))


def _three_ways(scene: list[torch.Tensor], noise: float) -> list[np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    light = [expose(frame.pow(2.2), torch.tensor(DARK_EV)) for frame in scene]
    noisy = [add_noise(frame, torch.tensor(noise), generator) for frame in light]
    return [
        _last(noisy, Enhancer("cpu", strength=2.0)),
        _last(noisy, Enhancer("cpu", strength=2.0, denoise=0.5)),
        _last(light, Enhancer("cpu", strength=2.0)),
    ]


def _last(light: list[torch.Tensor], enhancer: Enhancer) -> np.ndarray:
    for index, picture in enumerate(light):
        codes = (picture[0].clamp(0, 1).pow(1 / 2.2) * 255).round().byte().permute(1, 2, 0).numpy()
        frame = av.VideoFrame.from_ndarray(codes, "rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
        )
        result = enhancer(frame, index / 24)
    return result.to_ndarray(format="rgb24")


def main() -> None:
    """All of them."""
    before_after()
    backlit_sheet()
    denoise_sheet()


if __name__ == "__main__":
    main()
