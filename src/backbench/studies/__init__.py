"""Studies: a list of rankings in one TOML file, carried out whole, beside what was published."""
