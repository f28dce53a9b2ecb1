"""Statistics on sums and histograms: e-values, intervals, sequential boundaries. Pure.

Called by :mod:`controller.decision` and :mod:`abmesh.analysis`. It imports nothing else of ours, and knows no rollout.
"""
