"""Functions: the user's Python, run safely. Empty on purpose: executors import from here, and must stay small."""
