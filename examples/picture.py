"""Enhance a picture held in a numpy array: python examples/picture.py backlit.jpg enhanced.png

Needs Pillow to read and write the picture; `rtlit.enhance_image` does it all, and keeps the metadata.
"""

import sys

import numpy as np
from PIL import Image

from rtlit import Enhancer

source, target = sys.argv[1:]
enhancer = Enhancer(strength=1.0)
picture = np.asarray(Image.open(source).convert("RGB"))  # uint8 [H, W, 3]
Image.fromarray(enhancer(picture)).save(target)
print(f"{target}: by {enhancer.choice.backend.name} ({enhancer.choice.reason})")
