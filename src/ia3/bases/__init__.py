"""Bases: the frozen transformers that adapters are put on, and how each is obtained."""
