"""From an experiment to Envoy's configuration: bootstrap, listener, routes, filters and statistics. Pure.

Called by ``abmesh render envoy``, by the controller's :mod:`controller.routes`, and by the demo.
"""
