"""From an Envoy's statistics to evidence per variant. Pure: text in, numbers out.

``parse`` (text -> cumulative sample) -> ``window`` (differences since a stage began) -> ``summary`` (per variant), with
``counts`` and ``histogram`` as the arithmetic below them.
"""
