"""Where statistics come from, behind one Protocol."""
