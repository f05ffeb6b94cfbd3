"""Mergeline: declarative pipelines for the life of LoRA and QLoRA adapters."""

__version__ = "0.1.0"
