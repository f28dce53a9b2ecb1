"""Pictures of analyses and simulations, with matplotlib, which only these modules import.

They are drawn to be read in black and white, in print and by people who see few colours: series differ by line style,
marker and hatch, never by colour alone.
"""
