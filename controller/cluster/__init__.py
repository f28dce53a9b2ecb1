"""Keep: what :mod:`controller.state` keeps as files, as Kubernetes objects.

    Experiment .status     state, weights and ranges in force: :mod:`.states`, :mod:`.documents`, :mod:`.transitions`
    ConfigMaps             evidence, journal, and what outlives a deleted Experiment: :mod:`.evidence`, :mod:`.journal`,
                           :mod:`.kept`
    Lease                  who leads, and the epoch that fences: :mod:`.lease`
    Events, conditions     what people see: :mod:`.events`, :mod:`.conditions`, :mod:`.report`

Called by :mod:`controller.wiring_cluster`.
"""
