"""Tuning methods for Upright, one file each."""
