"""From a YAML list to a typed recipe: find, read, compile to Hydra's form, compose, check."""
