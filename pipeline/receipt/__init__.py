"""The receipt: what a published model folder was made of, how, and what its files hash to."""
