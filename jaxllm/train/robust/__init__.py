"""Robust and adversarial tuning: what a step minimises, made of its plain passes."""
