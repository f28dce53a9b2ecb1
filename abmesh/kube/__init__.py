"""Kubernetes as the server, the controller and the command share it: objects, requests, watches.

Nothing here is imported by a process that reads its experiments from a file.
"""
