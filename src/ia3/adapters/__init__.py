"""Adapters as files and values: PEFT's format, the identity of a base, and saving an attached model."""
