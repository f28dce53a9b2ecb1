"""Publish: the routes file of the native lane, and whether Envoys serve it.

Runs beside the loop, started by the wiring.
"""
