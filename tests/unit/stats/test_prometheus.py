"""The text format, read by the parser of a client library."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from modelboxd.engine.histogram import Histogram
from modelboxd.stats.prometheus import SIZES, TIMES, Text


def test_names_values_and_labels() -> None:
    text = Text()
    for job in ("a", 'b"\\\n', "ü"):
        text.add("x_total", "counter", "Things.", 3, {"job": job})
    text.add("y", "gauge", "A gauge.", 1795263243.28)
    text.add("z", "gauge", "Small.", 1.5e-7)
    found = list(text_string_to_metric_families(str(text)))
    assert [(family.name, family.type, family.documentation) for family in found] == [
        ("x", "counter", "Things."), ("y", "gauge", "A gauge."), ("z", "gauge", "Small."),
    ]  # fmt: skip
    assert [sample.labels["job"] for sample in found[0].samples] == ["a", 'b"\\\n', "ü"]
    assert [family.samples[0].value for family in found] == [3, 1795263243.28, 1.5e-7]


def test_histograms() -> None:
    histogram = Histogram()
    for value in (0, 1, 2, 3, 7, 8, 5000, 1 << 39):
        histogram.add(value)
    text = Text()
    text.distribution("d_seconds", "Times.", histogram.snapshot(), {"job": "a"}, TIMES, 1e-9)
    text.distribution("b", "Sizes.", histogram.snapshot(), {"job": "a"}, SIZES, 1)
    times, sizes = text_string_to_metric_families(str(text))
    for family, scale in ((times, 1e-9), (sizes, 1)):
        buckets = [(float(s.labels["le"]), s.value) for s in family.samples if s.name.endswith("_bucket")]
        assert buckets == sorted(buckets)
        assert buckets[-1] == (float("inf"), 8)
        assert [s.value for s in family.samples if s.name.endswith("_count")] == [8]
        (total,) = [s.value for s in family.samples if s.name.endswith("_sum")]
        assert abs(total - (5021 + (1 << 39)) * scale) < 1e-6
    by_size = {s.labels["le"]: s.value for s in sizes.samples if s.name == "b_bucket"}
    assert (by_size["1"], by_size["3"], by_size["7"], by_size["15"]) == (2, 4, 5, 6)
