"""The ``abmesh`` command, one file for each group of commands. It may import every other package."""
