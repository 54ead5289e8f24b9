#!/usr/bin/env python3
"""The `rtlit` command in a checkout that isn't installed: python cli.py enhance-video backlit.mp4"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "kernels"))

from rtlit.commands import main  # noqa: E402 (kernels/ has to be on the path first)

if __name__ == "__main__":
    main(prog_name="rtlit")
