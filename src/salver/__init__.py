"""Salver serves Python models: ``from salver import serve``."""

__version__ = "0.1.0"
