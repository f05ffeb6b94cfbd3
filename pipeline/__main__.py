"""`python -m pipeline` is `mergeline`."""

from pipeline.cli import entry

entry()
