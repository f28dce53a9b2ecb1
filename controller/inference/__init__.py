"""From evidence to a verdict per guardrail. Pure.

``judgement`` is what a verdict is; ``thresholds`` is one way to reach it. Whoever replaces the way keeps the function
``judge(guardrail, candidate, control) -> Judgement``: the policy knows nothing else.
"""
