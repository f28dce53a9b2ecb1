"""Exports Prometheus metrics: the controller's own and those of each variant. Used by the loop and the HTTP server."""
