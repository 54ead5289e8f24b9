"""The stages of rtlit as Triton kernels; each launcher has the name and signature of its reference."""

from rtlit_kernels.analyze import analyze

__all__ = ["analyze"]
