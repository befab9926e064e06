"""Cleaning steps for Upright: exact-dup, unicode, length."""
