"""Keep: the state of rollouts, their evidence, the journal and the leader's lease, as files.

Called by :mod:`controller.rollout`, :mod:`controller.wiring` and the command line.
"""
