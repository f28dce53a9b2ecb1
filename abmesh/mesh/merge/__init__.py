"""Merging what abmesh renders into somebody's own Envoy configuration, and taking it out again. Pure.

tree       the file's text as a tree whose nodes know where they stand
splice     insertions, replacements and removals in that text; all other bytes stay
find       the listener, virtual host and route that were named
check      what is refused, with the reason
pieces     what abmesh puts there
add_clusters  the clusters that the file lacks
into       merge and remove, called by ``abmesh render envoy --into``
"""
