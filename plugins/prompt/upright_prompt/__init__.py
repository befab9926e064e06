"""Prompting steps for Upright: template, label-similarity."""
