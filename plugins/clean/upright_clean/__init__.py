"""Cleaning steps for Upright: they decide, core applies and remembers."""
