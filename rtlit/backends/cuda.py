"""CUDA backend: the Triton kernels of `rtlit_kernels`, run by `rtlit.backends.cuda_engine`."""

from __future__ import annotations

import math
from importlib import import_module
from typing import TYPE_CHECKING

import torch

from rtlit.settings import EnhanceSettings

if TYPE_CHECKING:
    from rtlit.backends.cuda_engine import Engine
    from rtlit.network import CurveNetwork

_OLDEST = (7, 5)  # Turing: the oldest that the kernels are compiled for in tests


class CudaBackend:
    """`rtlit.backends.choose.EngineBackend` on the current CUDA device."""

    estimates_per_second = math.inf

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.name = f"Triton kernels on {torch.cuda.get_device_name(self.device)}"

    def engine(self, network: CurveNetwork, settings: EnhanceSettings) -> Engine:
        """See `rtlit.backends.choose.EngineBackend`."""
        from rtlit.backends.cuda_engine import Engine
        from rtlit.backends.streams import CudaStreams

        return Engine(CudaStreams(self.device), network, settings)


def lacking() -> str | None:
    """What keeps the kernels from running on the CUDA device that torch finds, and what to do; None if nothing does."""
    try:
        import_module("rtlit_kernels")
    except ImportError as error:
        what = "triton" if (error.name or "").startswith("triton") else "rtlit_kernels"
        fix = "pip install 'triton>=3.6'" if what == "triton" else "pip install rtlit, or put kernels/ on PYTHONPATH"
        return f"{what} isn't installed: {fix}"
    capability = torch.cuda.get_device_capability()
    if torch.version.hip is None and capability < _OLDEST:
        found, oldest = (".".join(map(str, numbers)) for numbers in (capability, _OLDEST))
        return f"it has compute capability {found}, and the kernels need {oldest}"
    return None
