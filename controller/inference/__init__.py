"""Statistics on sums and histograms: e-values, intervals, boundaries. Pure, with nothing of rollouts in it.

``counts`` and ``difference`` (events, exactly), ``means`` and ``variance`` (users who repeat), ``quantiles`` and
``cumulative`` (histograms), ``sample_ratio``, ``sequential`` (planned looks), ``fixed`` (one look), ``multiple``
(several metrics), ``segments``. :mod:`controller.judging` turns them into verdicts.
"""
