"""A backbone with its head and class names: in memory, as a folder on disk, and its card."""
