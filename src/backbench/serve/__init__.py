"""`backbench serve`: a local page and an HTTP API to try trained models."""
