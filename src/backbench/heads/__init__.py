"""Heads on frozen features: kinds of heads, solvers and model selection."""
