"""Prompting steps for Upright: how a record reads, and answers without training."""
