"""Runs: from a table and the name of a base to a trained adapter in a folder."""
