"""From a table of results, or a rollout's evidence, to a report that a person reads. Pure: rows in, records out.

``table`` (with ``columns``) reads a CSV -> ``records`` is what everything is brought into -> ``compare`` puts the
methods of :mod:`controller.inference` to it -> ``report`` adds segments, the sample-ratio check and warnings ->
``render`` writes text, Markdown or JSON. ``live`` makes the same report of a rollout's strata, ``series`` follows one
over time, ``pictures`` is what there is to draw, and ``planning`` says before an experiment how many requests it takes.
Nothing here decides about a rollout.
"""
