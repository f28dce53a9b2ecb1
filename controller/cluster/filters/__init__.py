"""The EnvoyFilters of accepted Experiments, kept in the cluster while this process leads.

    What to do                    :mod:`.plan`, :mod:`.memory`, :mod:`.verdicts`, :mod:`.probation`; pure
    What was read                 :mod:`.reading`
    Whether Envoys refuse it      :mod:`.checking` before a write, :mod:`.rejects` after it
    Who does it                   :mod:`.keeper`, with :mod:`.writing`
    Which Envoys there are        :mod:`.pods`

Called by :mod:`controller.wiring_cluster`. Runs beside the ticks; no tick waits for it.
"""
