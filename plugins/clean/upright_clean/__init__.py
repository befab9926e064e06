"""Cleaning steps for Upright: exact-dup, label-issues, length, outliers, parity, unicode."""
