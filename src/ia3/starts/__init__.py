"""Starts: the adapters that come with the project, to begin with, and what they have learned."""
