"""The stages of rtlit as Triton kernels; each launcher has the name and signature of its reference."""

__all__: list[str] = []
