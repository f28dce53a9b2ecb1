import itertools

from abmesh.experiment.latencies import BOUNDS_MS
from abmesh.mesh.bootstrap import render_bootstrap
from abmesh.mesh.buckets import BUCKETS_MS
from abmesh.mesh.options import RenderOptions
from tests.abmesh.mesh.documents import document


def test_buckets_are_few_and_fine_from_a_millisecond_to_ten_minutes() -> None:
    assert (BOUNDS_MS[0], BOUNDS_MS[-1]) == (1, 600_000)
    assert len(BOUNDS_MS) < 80
    assert all(low < high for low, high in itertools.pairwise(BOUNDS_MS))
    assert all(high / low <= 1.26 for low, high in itertools.pairwise(BOUNDS_MS) if low >= 8)


def test_each_bucket_ends_below_its_bound_and_holds_the_last_whole_millisecond_before_it() -> None:
    for bucket, bound, before in zip(BUCKETS_MS, BOUNDS_MS, (0, *BOUNDS_MS), strict=False):
        assert before <= bucket < bound


def test_only_our_own_histograms_have_them() -> None:
    (settings,) = render_bootstrap(document(), RenderOptions())["stats_config"]["histogram_bucket_settings"]
    assert settings["match"] == {"prefix": "abmesh."}
    assert settings["buckets"] == list(BUCKETS_MS)
