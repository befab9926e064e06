"""Cleaning steps for Upright: back-translate, balance, bias-report, counterfactual-augment, exact-dup, length, synonym, unicode."""
