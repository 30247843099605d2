"""Figures and the page: what is in them, and that odd results do not break them."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from spark_dlobd.characterize.results.comparison import workloads
from spark_dlobd.characterize.results.record import CaseRecord
from spark_dlobd.characterize.show import plots, style
from spark_dlobd.characterize.show.figures import Drawn, draw_figures, save_figures
from spark_dlobd.characterize.show.page import render_page, write_page
from spark_dlobd.report import look
from tests.unit.characterize_records import failed, made

RECORDS = [
    made("gloo", 1, 12.0),
    made("gloo", 2, 8.0),
    made("gloo", 2, 10.0, repeat=2),
    made("spark", 1, 15.0),
    made("spark", 2, 14.0),
    failed(made("grpc", 2, 4.0), error="<b>connection refused</b>"),
]


@pytest.fixture(scope="module")
def drawn() -> list[Drawn]:
    return draw_figures(RECORDS)


def axes_of(drawn: list[Drawn], kind: str) -> list[Any]:
    return next(one for one in drawn if one.kind == kind).figure.axes


def test_every_figure_of_the_literature_is_drawn(drawn: list[Drawn]) -> None:
    assert [one.name.removeprefix("lenet-generated-mnist-") for one in drawn] == [
        "end-to-end",
        "protocols",
        "accuracy",
        "epochs",
        "scalability",
        "time-parts",
        "utilization-gloo",
        "utilization-spark",
    ]
    assert all(one.generated for one in drawn)


def test_every_panel_has_names_on_its_axes(drawn: list[Drawn]) -> None:
    for one in drawn:
        panels = one.figure.axes
        assert panels[-1].get_xlabel(), one.name
        horizontal = one.name.endswith(("protocols", "time-parts"))
        assert all(axes.get_ylabel() or horizontal for axes in panels), one.name


def test_end_to_end_bars(drawn: list[Drawn]) -> None:
    """5 s to start, three epochs, 1 s of testing: 42 s; 30 s and 36 s are 33 on average."""
    (axes,) = axes_of(drawn, "End-to-end time")
    bars = [container for container in axes.containers if hasattr(container, "patches")]
    heights = {one.get_label(): [bar.get_height() for bar in one] for one in bars}
    assert heights["Horovod (Gloo over TCP)"] == [42.0, 33.0]
    assert heights["Spark shuffle"] == [51.0, 48.0]
    assert [text.get_text() for text in axes.texts] == ["failed"]


def test_protocols_are_sorted_fastest_first(drawn: list[Drawn]) -> None:
    (axes,) = axes_of(drawn, "Ways for gradients to travel")
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "Horovod\n(Gloo over TCP)",
        "Spark shuffle",
    ]
    assert [text.get_text() for text in axes.texts] == ["9 s", "14 s"]
    assert axes.get_xlabel() == "seconds per epoch, 2 workers"


def test_accuracy_lines_and_target(drawn: list[Drawn]) -> None:
    (axes,) = axes_of(drawn, "Accuracy over time")
    first = axes.lines[0]
    assert list(first.get_xdata()) == [13.0, 21.0, 29.0]
    assert list(first.get_ydata()) == [50.0, 70.0, 90.0]
    assert [text.get_text() for text in axes.texts] == ["target 70 %"]


def test_accumulated_epochs(drawn: list[Drawn]) -> None:
    (axes,) = axes_of(drawn, "Accumulated epoch time")
    lines = {c.get_label(): c.lines[0] for c in axes.containers}
    assert list(lines["Horovod (Gloo over TCP)"].get_ydata()) == [9.0, 18.0, 27.0]
    assert list(lines["Spark shuffle"].get_ydata()) == [14.0, 28.0, 42.0]


def test_scalability_panels(drawn: list[Drawn]) -> None:
    """1,200 rows in 12 s and, on average of 8 s and 10 s, 135 a second: 67.5 %."""
    above, below = axes_of(drawn, "Scalability")
    rates = {c.get_label(): list(c.lines[0].get_ydata()) for c in above.containers}
    assert rates["Horovod (Gloo over TCP)"] == pytest.approx([100.0, 135.0])
    assert list(below.lines[0].get_ydata()) == pytest.approx([100.0, 67.5])


def test_utilization_panels(drawn: list[Drawn]) -> None:
    cpu, memory, network = axes_of(drawn, "Utilization over time")
    assert [axes.get_ylabel() for axes in (cpu, memory, network)] == [
        "CPU (%)",
        "memory (GiB)",
        "network (MB/s)",
    ]
    assert [line.get_label() for line in cpu.lines] == ["rank 0", "rank 1"]
    assert network.lines[0].get_ydata()[0] == pytest.approx(65.0)  # 30 sent, 35 received


def test_gpu_panels_where_there_is_one() -> None:
    record = made("gloo", 2, 4.0)
    for series in record.report["utilization"]:
        series["gpu_percent"] = [50.0] * len(series["seconds"])
        series["gpu_memory_bytes"] = [2.0**31] * len(series["seconds"])
    (workload,) = workloads([record])
    figure = plots.utilization(workload.series[0].runs[2])
    assert figure is not None
    assert [axes.get_ylabel() for axes in figure.axes][3:] == ["GPU (%)", "GPU memory (GiB)"]


def luminance(color: str) -> float:
    """As WCAG 2 defines it."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("card", ["#ffffff", "#1d2126"])
def test_every_colour_can_be_seen_on_light_and_dark(card: str) -> None:
    assert f"--card: {card.replace('#ffffff', '#fff')};" in render_page([])
    for name, color in {**style.COLORS, **look.PARTS, **dict(enumerate(look.LINES))}.items():
        dark, light = sorted((luminance(card), luminance(color)))
        assert (light + 0.05) / (dark + 0.05) > 2, name


def test_files_are_pictures(drawn: list[Drawn], tmp_path: Path) -> None:
    paths = save_figures(drawn[:1], tmp_path / "new")
    assert [path.name for path in paths] == [
        "lenet-generated-mnist-end-to-end.png",
        "lenet-generated-mnist-end-to-end.svg",
    ]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    same = drawn[0].svg() == paths[1].read_bytes()
    assert same  # the text itself is too long to be compared by pytest


def test_nothing_finished_draws_nothing() -> None:
    assert draw_figures([failed(record) for record in RECORDS]) == []
    assert draw_figures([]) == []


def test_a_bare_report_draws_what_it_can() -> None:
    record = replace(made("gloo", 1, 4.0), report={"total_seconds": 3.0})
    assert [one.kind for one in draw_figures([record])] == ["End-to-end time"]


class Checker(HTMLParser):
    """Notes unclosed tags, ids, links and what would be loaded from elsewhere."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag == "a":
            self.links.append(str(values["href"]))
        if tag == "svg":
            self.images.append(values)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    return checker


def test_page_is_whole_and_needs_nothing_else(drawn: list[Drawn], tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    write_page(path, RECORDS, "Two & two", notes=["Left out: nothing"], drawn=drawn)
    text = path.read_text(encoding="utf-8")
    page = checked(text)
    assert "<title>Two &amp; two</title>" in text
    assert 'name="viewport"' in text
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert not {"script", "link", "iframe", "img"} & page.tags
    assert len(page.images) == len(drawn)
    assert [image["role"] for image in page.images] == ["img"] * len(drawn)
    for one in drawn:
        described = [image for image in page.images if one.caption in str(image["aria-label"])]
        assert any(one.subject in str(image["aria-label"]) for image in described)
    assert "url(http" not in text and "@import" not in text
    assert "Left out: nothing" in text


def test_page_says_what_the_data_are_and_what_failed(drawn: list[Drawn]) -> None:
    text = render_page(RECORDS, drawn=drawn)
    assert "Generated data: generated-mnist has images that a program drew" in text
    assert text.count("generated data</span>") == len(drawn) + 2  # of verdict and numbers
    assert "&lt;b&gt;connection refused&lt;/b&gt;" in text
    assert "The literature found" in text
    assert "Example CPU" in text
    real = [made("gloo", 1, 4.0, data="mnist")]
    assert "Generated data" not in render_page(real, drawn=[])


def test_verdict_comes_first_and_notes_are_folded(drawn: list[Drawn]) -> None:
    text = render_page(RECORDS, drawn=drawn, notes=["Left out: 2 workers of local."])
    shown, folded = text.index('class="verdict"'), text.index('<details class="card" id="notes">')
    assert shown < text.index('id="verdict"') < folded < text.index('id="findings"')
    assert "trains fastest with Horovod (Gloo over TCP) on 2 workers: 135 images/s" in text
    assert re.findall(r"<li><span>(.*?)</span><span>(.*?)</span><i style=\"width:(.*?)%", text) == [
        ("Horovod (Gloo over TCP), 2 workers", "135 images/s", "100.0"),
        ("Spark shuffle, 2 workers", "86", "63.5"),
    ]
    assert (
        text.index("2 notes: ") < text.index("Left out: 2 workers of local.") < text.index("</de")
    )
    assert "5 of 6 runs finished, repeated ones as means · 1 model · 3 stacks · 1, 2 wor" in text
    assert "Example CPU, 2 cores" in text
    for topic in text.split('<section class="card finding">')[1:]:
        assert topic.index("<details>") < topic.index("</section>")


def test_only_what_was_repeated_has_whiskers_and_says_so(drawn: list[Drawn]) -> None:
    (axes,) = axes_of(drawn, "End-to-end time")
    whiskers = {
        bars.get_label(): [
            [float(y) for _, y in segment]
            for segment in bars.errorbar.lines[2][0].get_segments()
            if len(segment) == 2 and segment[0][1] == segment[0][1]
        ]
        for bars in axes.containers
        if hasattr(bars, "patches") and bars.errorbar is not None
    }
    low, high = 33 - 18**0.5, 33 + 18**0.5
    assert whiskers == {"Horovod (Gloo over TCP)": [pytest.approx([low, high])]}
    captions = {one.kind: one.caption for one in drawn}
    assert "whiskers their standard deviation" in captions["End-to-end time"]
    once = draw_figures(RECORDS[:2])
    assert once[0].caption.endswith("Each bar is one run.")
    assert "One run of each; repeats=3 gives" in render_page(RECORDS[:2], drawn=once)


def test_figures_stand_by_kind_and_of_one_model_all_together(drawn: list[Drawn]) -> None:
    def grids(records: list[CaseRecord], figures: list[Drawn]) -> list[int]:
        shown = render_page(records, drawn=figures).split('<h2 id="figures">')[1]
        return [grid.count("<svg") for grid in shown.split('class="tiled three"')[1:]]

    assert grids(RECORDS, drawn) == [6, 2]  # utilization is folded apart
    other = draw_figures([made("gloo", 1, 12.0, model="softmax")])
    assert [one.kind for one in other][:1] == ["End-to-end time"]
    assert grids(RECORDS, [*drawn, *other])[0] == 2


def test_page_has_the_numbers(drawn: list[Drawn]) -> None:
    text = render_page(RECORDS, drawn=drawn)
    rows = [
        re.findall(r"<td>(.*?)</td>", row)
        for row in re.findall(r"<tr>(<td>(?:Horovod|Spark|Param).*?)</tr>", text)
    ]
    assert rows[1] == [
        "Horovod (Gloo over TCP)", "2", "128", "33 ± 4.2", "9 ± 1.4", "135 ± 21",
        "68 %", "23 ± 2.8", "90.0 %", "compute", "2 of 2",
    ]  # fmt: skip
    assert rows[-1] == ["Parameter servers", "2", "128", *["-"] * 7, "0 of 1"]


def test_page_without_results() -> None:
    text = render_page([])
    checked(text)
    assert "There are no results yet." in text


def test_page_of_failures_alone() -> None:
    record: CaseRecord = replace(failed(RECORDS[0]), data={}, machine={}, started=None, error=None)
    text = render_page([record])
    checked(text)
    assert "Nothing finished that could be drawn." in text
    assert "no error was recorded" in text
