"""The gateway: front doors, a journal, flows over it, a sandbox for functions."""

__version__ = "0.1.0"
