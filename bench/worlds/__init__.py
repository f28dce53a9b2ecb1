"""Whole rollouts in described worlds, decided by the controller's own code: ``make worlds``."""
