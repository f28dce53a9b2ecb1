"""What the tick tells of the filters of gateways, and how people bring one back."""

from __future__ import annotations

from dataclasses import dataclass

from controller.cluster.conditions import Programming
from tests.controller.cluster.support import ClusterWorld


@dataclass
class Filters:
    """Who keeps the filters, as far as the tick asks."""

    said: Programming | None = None
    back: str = ""

    def programming(self, name: str) -> Programming | None:
        assert name == "llm/chat"
        return self.said

    def revive(self, name: str) -> str:
        assert name == "llm/chat"
        return self.back


def test_the_condition_says_what_became_of_the_filters_and_ready_follows(world: ClusterWorld) -> None:
    filters = world.stores.attendant.filters = Filters()
    world.tick()
    assert world.condition("Programmed") == {}
    assert world.condition("Ready")["status"] == "True", "as far as that is known"
    filters.said = Programming("False", "RouteVanished", "the route is gone")
    world.tick()
    found = world.condition("Programmed")
    assert (found["status"], found["reason"], found["message"]) == ("False", "RouteVanished", "the route is gone")
    assert (world.condition("Ready")["status"], world.condition("Ready")["reason"]) == ("False", "RouteVanished")
    filters.said = Programming("True", "Programmed", "its routes are split")
    world.tick()
    assert (world.condition("Programmed")["status"], world.condition("Ready")["status"]) == ("True", "True")


def test_resume_is_done_if_it_brings_a_filter_back_and_refused_if_there_is_nothing_to_do(world: ClusterWorld) -> None:
    filters = world.stores.attendant.filters = Filters()
    world.tick()
    answer = world.ask("r1", "resume")
    assert (answer["outcome"], answer["id"]) == ("refused", "r1")
    filters.back = "applies again: EnvoyFilter edge/abmesh-route"
    answer = world.ask("r2", "resume")
    assert (answer["outcome"], answer["action"], answer["message"]) == ("done", "resume", filters.back)
    assert world.ask("r3", "pause")["outcome"] == "done"
