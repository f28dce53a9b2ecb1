"""The controller: the process that moves weights on evidence from Envoy. Its folders, in the order of a tick:

``sources`` reads Envoys' statistics, ``evidence`` counts, ``decision`` judges and decides, ``wording`` turns a decision
into sentences, ``rollout`` carries it out, ``state`` stores it, ``routes`` publishes it to Envoy and ``metrics``
exports it. :mod:`controller.loop` runs the ticks and owns the clock; :mod:`controller.wiring` builds the process.
"""
