"""`python -m edge_runtime.cli` is `edge`."""

from edge_runtime.cli.main import main

main()
