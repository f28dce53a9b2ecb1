"""The control plane process. Its folders, in the order in which a tick runs:

``sources`` asks Envoys, ``evidence`` counts, ``decision`` judges and decides, ``wording`` turns a decision into
sentences, ``rollout`` carries it out, ``state`` keeps it, ``routes`` publishes it to Envoy and ``metrics`` exports it.
:mod:`controller.loop` has the only clock; :mod:`controller.wiring` puts the process together.
"""
