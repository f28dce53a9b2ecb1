import itertools

from mesh.bootstrap import render_bootstrap
from mesh.buckets import BUCKETS_MS
from mesh.options import RenderOptions
from tests.mesh.documents import document


def test_buckets_are_few_and_fine_from_a_millisecond_to_ten_minutes() -> None:
    assert (BUCKETS_MS[0], BUCKETS_MS[-1]) == (1, 600_000)
    assert len(BUCKETS_MS) < 80
    assert all(low < high for low, high in itertools.pairwise(BUCKETS_MS))
    assert all(high / low <= 1.26 for low, high in itertools.pairwise(BUCKETS_MS) if low >= 8)


def test_only_our_own_histograms_have_them() -> None:
    (settings,) = render_bootstrap(document(), RenderOptions())["stats_config"]["histogram_bucket_settings"]
    assert settings["match"] == {"prefix": "abmesh."}
    assert settings["buckets"] == list(BUCKETS_MS)
