"""What a board that can be updated over the air starts with; the program is in a slot (see `edge_boot.py`)."""

import edge_boot

edge_boot.start()
