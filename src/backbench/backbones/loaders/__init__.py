"""Backbones of other libraries, and of cards and networks of our own."""
