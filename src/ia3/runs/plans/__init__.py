"""The kinds of runs: each says which tasks it is made of, and what is made of how they ended."""
