"""Kernels run on the GPU where there is one, else in Triton's interpreter, with the same tests."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import pytest
import torch

CUDA = torch.cuda.is_available()

if find_spec("triton") is None and sys.platform == "linux":
    raise ImportError("triton isn't installed, though it is a dependency of rtlit on Linux: pip install 'triton>=3.6'")
if not CUDA:
    # Before the first import of triton: its own functions are made for the interpreter or for a GPU as it is imported.
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("triton was imported before tests/kernels/conftest.py: run pytest with TRITON_INTERPRET=1")
    os.environ["TRITON_INTERPRET"] = "1"


def _mend_interpreter() -> None:
    """Triton 3.6's interpreter makes the bound of a loop an int by int(array of one), which NumPy 2.4 refuses."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def mended(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = mended


if not CUDA and find_spec("triton") and version("triton").startswith("3.6."):
    _mend_interpreter()


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where kernels run: "cuda", or "cpu" in the interpreter."""
    return torch.device("cuda" if CUDA else "cpu")


class _Untried(pytest.Module):
    """A test module of kernels on a system that Triton isn't made for."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip(f"no triton for {sys.platform}", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: os.PathLike[str], parent: pytest.Collector) -> pytest.Module | None:
    """Skips these tests, and says so, where there is no triton."""
    return None if find_spec("triton") else _Untried.from_parent(parent, path=module_path)
