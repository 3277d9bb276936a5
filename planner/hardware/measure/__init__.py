"""Measures the GPU at hand with PyTorch: rows of the same tables as the shipped measurements."""
