"""One run from its settings to its record, rankings of many, estimates before and evaluations after."""
