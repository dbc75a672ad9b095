"""Graphs that a file holds, exported programs and TorchScript, to modules that can be edited."""
