"""Tensors in, tensors out: the multiply and the faster forms of what frozen weights do, a plain twin beside each."""
