"""The native lane's routes file: ``envoy_file`` writes it, ``publisher`` keeps it current, ``watcher`` checks Envoys.

Started by :mod:`controller.wiring`; runs beside the loop.
"""
