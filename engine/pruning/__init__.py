"""Pruning: single weights by masks, whole channels by really smaller tensors."""
