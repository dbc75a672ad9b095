"""Winning back accuracy: statistics measured anew, and training."""
