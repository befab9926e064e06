"""Fairness constraints and audits for Upright, one file each."""
