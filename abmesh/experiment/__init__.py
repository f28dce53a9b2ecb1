"""Experiments: the document that describes them, who gets which variant, and how the document is read and written.

Both processes and the command line import it; it imports only the modules directly in :mod:`abmesh`. Only
:mod:`.store` and :mod:`.files` do I/O.
"""
