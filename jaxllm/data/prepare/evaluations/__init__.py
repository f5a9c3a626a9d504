"""Evaluation sets, and their removal from training text."""
