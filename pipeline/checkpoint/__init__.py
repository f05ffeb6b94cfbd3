"""Bases and adapters on disk or on the Hub: find, read, check, publish. Nothing here loads a model."""
