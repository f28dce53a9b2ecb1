"""Reads Envoys' statistics, from each Envoy's admin endpoint or from a Prometheus server that scrapes them all.

Both implement :class:`~controller.sources.base.Source`, which the loop calls once a tick.
"""
