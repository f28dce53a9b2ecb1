"""abmesh, the library and the command: what an experiment is, how Envoy is configured for it, and the statistics.

``experiment`` and ``mesh`` are what both processes share, ``inference`` is the mathematics, ``analysis`` is what people
run offline, and ``cli`` is the command. The processes are the packages :mod:`ext_proc` and :mod:`controller`.
"""
