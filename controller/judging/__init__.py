"""From a rollout's evidence to verdicts, and from verdicts and time to a decision. Pure.

``course`` (evidence by stage and since which moment) -> ``comparisons`` (one metric, candidate against control) ->
``guardrails``, ``brake``, ``goals``, ``balance`` (a verdict each) -> ``deliberation``, which puts them together with
:mod:`controller.policy`. The mathematics is in :mod:`controller.inference`.
"""
