"""Explaining steps for Upright: integrated-gradients, occlusion, shapley, gradient-shap, input-x-gradient, attention, and
faithfulness, which checks them."""
