"""Puts MicroPython, the firmware and a program on a board."""
