"""Simulated experiments: how often our rules are wrong, and how often the naive ones are. ``make simulations``."""
