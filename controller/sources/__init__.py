"""Ask: where Envoys' statistics come from.

One protocol, :class:`~controller.sources.base.Source`, called by the loop.
"""
