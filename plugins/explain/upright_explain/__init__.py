"""Explaining steps for Upright: attributions, their faithfulness, influence, counterfactuals, the tokens that matter."""
