"""Measurements of ia3 beside its rivals; `python -m benchmarks.training --help` tells how to run them."""
