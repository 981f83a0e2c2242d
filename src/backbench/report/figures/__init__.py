"""Pictures drawn from records: arrays in, a matplotlib Figure out, one style for light and dark."""
