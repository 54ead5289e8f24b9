"""What the launchers pass compiles, for every layout of planes; and for a plan's next frame nothing more has to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_what_is_launched_compiles(tmp_path: Path) -> None:
    """In a process of its own: where the interpreter is, nothing can be compiled."""
    path = [str(ROOT / "kernels"), str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, path))}
    command = [sys.executable, "-W", "error", str(ROOT / "tests/kernels/launches.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    launches = [json.loads(line) for line in done.stdout.splitlines()]
    a_frame = [f"_{name}_kernel" for name in ("analyze", "restrain", "follow", "filter", "apply", "apply")]
    assert [launch["kernel"] for launch in launches[:12]] == 2 * a_frame
    assert [launch["compiled"] for launch in launches[:12]] == 6 * [True] + 6 * [False]
    network = [launch for launch in launches if launch["kernel"] in ("_stem_kernel", "_conv_kernel", "_tail_kernel")]
    assert [launch["compiled"] for launch in network].count(True) == 3, "whichever way the picture is turned"
    assert len(network) == 18
    restrain = [launch for launch in launches if launch["kernel"] == "_restrain_kernel"]
    assert [launch["compiled"] for launch in restrain].count(True) == 2, "of three curves and of one"
