"""Export: the controller's own Prometheus metrics and those of the variants. Called by the loop and the HTTP server."""
