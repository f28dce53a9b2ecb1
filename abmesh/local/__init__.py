"""Runs abmesh on one machine: child processes, free ports, a model server, and all of it together with a real Envoy.

``abmesh demo``, the benchmarks and the tests share it, so that none of them imports another. Compose runs
:mod:`abmesh.local.model_server` as a program.
"""
