"""Exporting: one module a format, each verified by re-opening the file in a child process."""
