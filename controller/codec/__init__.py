"""Evidence, history, inputs and decisions as they are kept on disk and in the journal. Pure.

Called by :mod:`controller.state` and :mod:`controller.rollout`, which keep them, and by :mod:`abmesh.analysis`, which
reads them back. The decision itself knows nothing of these forms.
"""
