"""Enhance the frames of a video one by one, to go on with them: python examples/frames.py examples/juggler.mp4

Prints the mean tone of every 24th frame before and after.
"""

import sys

import av

from rtlit import Enhancer

enhancer = Enhancer()  # one for each video: it smooths over time
with av.open(sys.argv[1]) as container:
    for number, frame in enumerate(container.decode(video=0)):
        enhanced = enhancer(frame)  # an av.VideoFrame of the same format, with the same time
        if number % 24 == 0:
            before, after = (f.to_ndarray(format="rgb24").mean() / 255 for f in (frame, enhanced))
            print(f"{frame.time:6.2f} s  {before:.3f} → {after:.3f}")
