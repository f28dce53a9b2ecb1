"""Count: from the text of an Envoy's statistics to samples, windows without resets, and evidence per variant. Pure.

Called by :mod:`controller.sources`, which reads the text, and :mod:`controller.rollout`, which collects the evidence.
"""
