"""Faster passes through a frozen model with a bank; the same functions as the plain ones."""
