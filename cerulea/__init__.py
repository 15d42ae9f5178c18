"""Cerulea: train and run AI models on your own machines, paid from a fund that is drawn on demand."""

__version__ = "0.1.0"
