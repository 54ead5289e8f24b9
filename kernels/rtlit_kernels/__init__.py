"""The stages of rtlit as Triton kernels; each launcher has the name and signature of its reference."""

from rtlit_kernels.analyze import analyze
from rtlit_kernels.apply import apply_curves
from rtlit_kernels.denoise import filter_planes
from rtlit_kernels.restrain import restrain
from rtlit_kernels.smooth import exponentiate, follow, smooth

__all__ = ["analyze", "apply_curves", "exponentiate", "filter_planes", "follow", "restrain", "smooth"]
