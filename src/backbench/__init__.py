"""backbench: which pretrained vision model, adapted how, is best for your images."""
