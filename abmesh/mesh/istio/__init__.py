"""abmesh in an Istio mesh: EnvoyFilters that change where somebody's route goes, and nothing else of it. Pure.

:mod:`abmesh.mesh.istio.render` is the entry. It takes Experiments and what was read of the cluster
(:mod:`~abmesh.mesh.istio.reading`), finds each route (:mod:`~abmesh.mesh.istio.find`), refuses what cannot be
taken over (:mod:`~abmesh.mesh.istio.check`), and makes up to four kinds of EnvoyFilter for the rest. A patch that Envoy
refuses freezes a gateway's whole port, so :mod:`~abmesh.mesh.istio.strict` reads every value as its Envoy type, and
:mod:`~abmesh.mesh.istio.trial` makes a bootstrap of them for a real Envoy to validate.
"""
