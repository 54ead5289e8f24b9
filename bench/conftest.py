"""What holds for every benchmark."""

from __future__ import annotations

import pytest
import torch

from bench.common import THREADS


def pytest_configure(config: pytest.Config) -> None:
    """A check that fails before its benchmark ran is one failure, not also a warning turned into an error."""
    config.addinivalue_line("filterwarnings", "ignore::pytest_benchmark.logger.PytestBenchmarkWarning")


@pytest.fixture(autouse=True)
def threads() -> None:
    """Torch as its users have it, reference and peers alike, whatever the benchmark before left behind."""
    torch.set_num_threads(THREADS)
