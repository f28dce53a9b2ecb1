"""Carry out: reconcile every rollout with its decision, commit changes, run operators' commands, show the status.

Called by :mod:`controller.loop` and by the command line.
"""
