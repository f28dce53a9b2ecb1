"""Files in the form in which three data sets are published, with generated rows: no data of others is kept here.

Cookie Cats (Tactile Entertainment's mobile game), Kevin Hillstrom's e-mail challenge of 2008, and the Upworthy Research
Archive (Matias, Munger, Aubin Le Quere and Ebersole, Scientific Data 8, 2021).
"""

from __future__ import annotations

import csv
import io
import random

COOKIE_CATS = {
    ("gate_30", False, False): 22_840, ("gate_30", False, True): 1826,
    ("gate_30", True, False): 13_358, ("gate_30", True, True): 6676,
    ("gate_40", False, False): 23_597, ("gate_40", False, True): 1773,
    ("gate_40", True, False): 13_613, ("gate_40", True, True): 6506,
}  # fmt: skip
"""Players as published: where the gate was, and whether they came back after one day and after seven."""


def cookie_cats() -> str:
    """A row for each player of the published counts, lines ended as on Windows; only rounds are not as published."""
    draw, rows = random.Random(1), ["userid,version,sum_gamerounds,retention_1,retention_7"]
    players = [kind for kind, count in COOKIE_CATS.items() for _ in range(count)]
    draw.shuffle(players)
    for number, (version, first, seventh) in enumerate(players):
        rounds = int(draw.lognormvariate(2.8, 1.4))
        rows.append(f"{116 + 11 * number},{version},{rounds},{str(first).upper()},{str(seventh).upper()}")
    return "\r\n".join(rows) + "\r\n"


HILLSTROM = {"Womens E-Mail": (21_387, 3238), "No E-Mail": (21_306, 2262), "Mens E-Mail": (21_307, 3894)}
"""Customers and visits as published."""


def hillstrom() -> str:
    """A row for each customer of the published counts; only visits are as published."""
    draw = random.Random(2)
    rows = ["recency,history_segment,history,mens,womens,zip_code,newbie,channel,segment,visit,conversion,spend"]
    left = [name for name, (customers, _) in HILLSTROM.items() for _ in range(customers)]
    draw.shuffle(left)
    visits = {name: iter([True] * seen + [False] * (all_of - seen)) for name, (all_of, seen) in HILLSTROM.items()}
    for name in left:
        visit, history = next(visits[name]), draw.lognormvariate(5.0, 0.9)
        bought = visit and draw.random() < 0.06
        spend = f"{draw.lognormvariate(4.4, 0.7):.2f}" if bought else "0"
        rows.append(
            f"{draw.randint(1, 12)},2) $100 - $200,{history:.2f},{draw.randint(0, 1)},{draw.randint(0, 1)},Surburban,"
            f"{draw.randint(0, 1)},Web,{name},{int(visit)},{int(bought)},{spend}"
        )
    return "\r\n".join(rows) + "\r\n"


UPWORTHY = (
    "", "created_at", "updated_at", "clickability_test_id", "excerpt", "headline", "lede", "slug", "eyecatcher_id",
    "impressions", "clicks", "significance", "first_place", "winner", "share_text", "square", "test_week",
)  # fmt: skip


def upworthy(tests: int = 120) -> str:
    """A row for each package of a test; every fifth test has one that is clicked twice as often."""
    draw, out = random.Random(3), io.StringIO()
    written = csv.writer(out)
    written.writerow(UPWORTHY)
    row = 0
    for test in range(tests):
        packages, rate = draw.randint(2, 6), draw.uniform(0.008, 0.03)
        for package in range(packages):
            impressions = round(draw.gauss(3000, 54))
            chance = rate * (2.0 if test % 5 == 0 and package == 1 else 1.0)
            clicks = sum(draw.random() < chance for _ in range(impressions))
            text = f'They Said "No" {test}, So She\nDid {package}'
            written.writerow(
                [row, "2014-11-20 06:43:16.005", "2016-04-02 16:33:38.062", f"546d88fb84ad38b2ce{test:06}",
                 'What matters. Pass "em on.', text, f"<p>One, two.</p>\n<p>{text}</p>", "slug",
                 f"546d6fa19ad54eec8d{package:06}", impressions, clicks, 100.0, True, False, "", "", 201446]
            )  # fmt: skip
            row += 1
    return out.getvalue()
