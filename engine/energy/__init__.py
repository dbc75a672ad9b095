"""Modelled energy: hardware descriptions and what a layer costs on them."""
