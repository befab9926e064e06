"""Explaining steps for Upright: integrated-gradients, faithfulness."""
