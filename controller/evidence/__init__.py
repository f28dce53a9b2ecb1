"""Turns Envoys' statistics into evidence. Pure.

Text becomes samples (``parse``, ``columns``, ``scraped``), samples become windows that survive restarts (``window``),
and windows become evidence per variant (``summary``) and per stage (``strata``). :mod:`controller.sources` calls the
parsers, :mod:`controller.rollout` the rest.
"""
