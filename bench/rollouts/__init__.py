"""Whole rollouts through a real Envoy, many at a time: how often the running controller is wrong. ``make rollouts``."""
