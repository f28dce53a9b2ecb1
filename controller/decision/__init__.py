"""Judge the evidence and decide: one pure function of data, with a cause and numbers as its result.

Called by :mod:`controller.rollout` at every tick, and by :mod:`abmesh.analysis` to replay, simulate and explain.
"""
