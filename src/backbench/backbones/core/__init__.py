"""Backbones as modules: how they are described, built, measured and loaded with weights."""
