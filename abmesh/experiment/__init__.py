"""What an experiment is, who gets which variant, and how the document is kept.

Both processes and the command line import it; it imports nothing else of ours. Only :mod:`.store` and :mod:`.files`
do I/O.
"""
