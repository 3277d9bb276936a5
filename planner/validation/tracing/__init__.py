"""One training step of the actual model on fake tensors: what PyTorch allocates, with no GPU.

Needs the extra `torch`; nothing outside this room imports PyTorch for a step. Written for PyTorch
2.13, Transformers 5.24 and peft 0.21, whose insides it looks into.
"""
