"""Explaining steps for Upright: adapter-effect, counterfactual, global, influence, integrated-gradients, lm-attribution."""
