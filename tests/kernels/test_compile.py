"""Every kernel that ships compiles for every GPU, without one: nothing spills, and registers stay under a ceiling."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.resources import MODULES, TARGETS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What bench/resources.py says of all modules, each variant freshly compiled.

    In a process of its own: where the interpreter is, nothing can be compiled. One for all: each imports torch and
    Triton once a core, and a module's slowest target would keep the other cores waiting.
    """
    path = [str(ROOT / "kernels"), str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    cache = tmp_path_factory.mktemp("triton")
    environment |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(filter(None, path))}
    command = [sys.executable, "-W", "error", str(ROOT / "bench/resources.py"), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.timeout(1200)  # the first one waits for all: 220 s of CPU
@pytest.mark.parametrize("module", MODULES)
def test_resources(module: str, compiled: list[dict[str, Any]]) -> None:
    rows = [row for row in compiled if row["module"] == module]
    assert {row["target"] for row in rows} == set(TARGETS), "each target has its variants"
    assert [row for row in rows if row["stack"]] == []
    assert [row for row in rows if row["target"].startswith("sm_") and row["registers"] > row["ceiling"]] == []
    # A launch that the machine can't hold fails: 64 K registers a multiprocessor, 64 KB of shared memory on the least.
    assert [row for row in rows if row["registers"] * row["threads"] > 65536 and row["target"] != "gfx942"] == []
    assert [row for row in rows if row["shared"] > 65536] == []
