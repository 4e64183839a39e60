"""The command `edge`: one file per group of verbs."""

from __future__ import annotations

from edge_runtime.cli.main import main

__all__ = ["main"]
