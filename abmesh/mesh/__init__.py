"""Rendering: from the document to Envoy's bootstrap, listeners, routes, filters and statistics. Pure.

Called by ``abmesh render envoy``, by the controller's :mod:`controller.routes`, and by the demo.
"""
