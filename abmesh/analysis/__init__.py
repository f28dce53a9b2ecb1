"""What people run offline: reports of a CSV or of a rollout, plans, simulations, replays and explanations.

Called by :mod:`abmesh.cli`. It uses the controller's pure folders (evidence, decision, wording, codec), so a report
shows the numbers that a decision was made on; the controller never imports it.
"""
