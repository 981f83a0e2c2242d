"""Heads on frozen features: what they are, and how they are solved and chosen."""
