"""Images to features: resize, forward pass, cache, and the int8 forms of a network."""
