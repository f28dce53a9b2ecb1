"""Where weights go, behind one Protocol."""
