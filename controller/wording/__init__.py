"""Decisions, verdicts and their numbers as sentences that people read. Pure.

Called where text leaves the process: the journal's entries, logs, and the commands. Nothing here decides.
"""
