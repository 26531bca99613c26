"""What a reader sees in MLflow's own pages, and of a report's page, in a real browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from search_spaces.study import Cell
from sweeps.tracking.outline import COLOURS
from sweeps.tracking.tracker import SUMMARY
from sweeps.tracking.views import RUN_NAME
from tests.browser.conftest import CELLS, FINISHED, Site
from trainer.config import Amp

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]
NARROW = {"width": 400, "height": 800}


def followed(page: Page, site: Site, title: str) -> Page:
    """The page that the description's link opens, which is another tab."""
    page.goto(site.runs())
    with page.expect_popup() as opened:
        page.get_by_role("link", name=title, exact=True).first.click()
    return opened.value


def row(page: Page, index: int) -> dict[str, str]:
    """What a row of the table shows, by the column's name; index: from 0, as sorted. A name is after its colour."""
    page.wait_for_selector(f'.ag-row[row-index="{index}"]')
    cells = page.locator(f'.ag-row[row-index="{index}"] .ag-cell')
    texts = {str(cell.get_attribute("col-id")): cell.inner_text() for cell in cells.all()}
    return {name: text.strip().rpartition("\n")[2] for name, text in texts.items()}


def columns(page: Page) -> list[str]:
    """Names of the columns in sight, left to right, of numbers, parameters and tags."""
    page.wait_for_selector(".ag-row")
    headers = page.locator(".ag-header-cell").all()
    places = {str(one.get_attribute("col-id")): (one.bounding_box() or {"x": 0.0})["x"] for one in headers}
    named = [name for name in places if re.match("(metrics|params|tags)", name)]
    return sorted(named, key=lambda name: places[name])


def count(page: Page) -> int:
    """How many runs match."""
    text = page.get_by_text(re.compile(r"^\d+ matching runs?$")).inner_text()
    return int(text.split()[0])


def names(page: Page, rows: int) -> list[str]:
    return [row(page, index)[RUN_NAME] for index in range(rows)]


def best(site: Site) -> tuple[Cell, float]:
    """The cell of lowest mean test NLL, as its run has it."""
    runs = {run.data.tags["key"]: run.data.metrics for run in site.place.runs()[1]}
    means = {cell.cell_id: runs[cell.cell_id].get("test/nll/mean", float("inf")) for cell in site.place.study.cells()}
    found = min(site.place.study.cells(), key=lambda cell: means[cell.cell_id])
    return found, means[found.cell_id]


def test_the_runs_stand_in_their_groups(page: Page, site: Site) -> None:
    page.goto(site.runs())
    shown = names(page, CELLS + 1)
    labels = [cell.label for cell in site.place.study.cells()]
    assert sorted(shown) == sorted(["browsed", *labels]), "parents alone, until they are opened"
    place = shown.index(labels[0])
    page.locator(f'.ag-row[row-index="{place}"] [col-id="{RUN_NAME}"] button').first.click()
    page.wait_for_selector(f'.ag-row[row-index="{CELLS + 2}"]')
    opened = names(page, CELLS + 3)
    assert sorted(opened[place + 1 : place + 3]) == [f"{labels[0]} seed={seed}" for seed in (0, 1)]
    colours = page.locator(f'.ag-row[row-index="{place + 1}"] [col-id="{RUN_NAME}"]').inner_text()
    assert COLOURS["Erm"] in colours


def test_the_description_is_unfolded_above_them(page: Page, site: Site) -> None:
    page.goto(site.runs())
    page.get_by_role("link", name="Leaderboard", exact=True).first.wait_for()
    question = page.get_by_text("Which radius is seen best in a browser?")
    page.locator('[data-component-id="mlflow.experiment.metadata_editor.expand_button"]').click()
    question.wait_for()
    page.get_by_text("How to read.").wait_for()


def test_the_leaderboard_has_the_best_cell_first(page: Page, site: Site) -> None:
    board = followed(page, site, "Leaderboard")
    first, (cell, mean) = row(board, 0), best(site)
    assert count(board) == CELLS
    shown = columns(board)
    assert shown[:3] == ["params.`method`", "params.`lr`", "params.`method.epsilon`"]
    assert shown[3:7] == [f"metrics.`test/nll/{name}`" for name in ("mean", "low", "high", "sd")]
    assert {"metrics.`test/nll/n`", "metrics.`test/error/mean`", "metrics.`difference/mean`"} <= set(shown)
    assert first[RUN_NAME] == cell.label
    assert float(first["metrics.`test/nll/mean`"].rstrip("…")) == pytest.approx(mean, rel=1e-4)


def test_by_epsilon_the_radii_rise(page: Page, site: Site) -> None:
    shown = followed(page, site, "By epsilon")
    assert columns(shown)[0] == "params.`method.epsilon`"
    radii = [row(shown, index)["params.`method.epsilon`"] for index in range(CELLS)]
    declared = [cell.trials[0].method for cell in site.place.study.cells()]
    assert radii == [str(method.epsilon) if isinstance(method, Amp) else "-" for method in declared]


def test_all_trials_stand_in_order_of_their_test_nll(page: Page, site: Site) -> None:
    shown = followed(page, site, "All trials")
    assert "metrics.`final/test/nll`" in columns(shown)
    values = [row(shown, index)["metrics.`final/test/nll`"] for index in range(FINISHED)]
    assert count(shown) == FINISHED + 1
    assert values == sorted(values, key=float)


def test_failures_are_the_trial_that_diverged_with_its_cause(page: Page, site: Site) -> None:
    shown = followed(page, site, "Failures")
    failed = row(shown, 0)
    assert count(shown) == 1
    assert failed["tags.`outcome`"] == "diverged"
    assert failed["tags.`cause`"]
    assert failed["params.`seed`"] == "0"


def run_page(site: Site, key: str, tab: str = "") -> str:
    [run] = [run for run in site.place.runs()[1] if run.data.tags["key"] == key]
    path = f"{site.address}/#/experiments/{site.experiment_id}/runs/{run.info.run_id}"
    return f"{path}{tab}?workflowType=machine_learning"


def test_a_trial_has_a_chart_of_each_metric_and_names_its_data(page: Page, site: Site) -> None:
    trial = site.place.study.trials[0]
    page.goto(run_page(site, trial.trial_id, "/model-metrics"))
    page.get_by_placeholder("Search metric charts").fill("^test/nll$")
    line = page.locator(".js-plotly-plot .scatterlayer .trace path.js-line")
    line.first.wait_for(state="attached")
    points = str(line.first.get_attribute("d"))
    assert len(re.findall("[ML]", points)) >= 1
    assert len(re.findall(r"-?[\d.]+,-?[\d.]+", points)) >= trial.epochs
    page.goto(run_page(site, trial.trial_id))
    page.get_by_text("Digits training").first.wait_for()
    page.get_by_text("+2", exact=True).click()
    for part in ("validation", "test"):
        page.get_by_text(f"Digits {part}").first.wait_for()


def test_the_report_opens_in_the_pages(page: Page, site: Site) -> None:
    shown = followed(page, site, "Report")
    assert f"artifacts/report/{'report.html'}" in shown.url
    frame = shown.frame_locator("iframe")
    frame.get_by_text("Which radius is seen best in a browser?").first.wait_for()
    page.goto(run_page(site, SUMMARY))
    page.get_by_text("Which radius is seen best in a browser?").first.wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_opens_offline(browser: Browser, site: Site, scheme: str) -> None:
    context = browser.new_context(viewport=NARROW, color_scheme=scheme)  # type: ignore[arg-type]
    page, asked, complaints = context.new_page(), list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((site.report / "report.html").as_uri(), wait_until="networkidle")
    assert asked, "not even the page itself"
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert complaints == []
    assert page.get_by_text("Which radius is seen best in a browser?").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    context.close()


def test_the_report_has_a_light_and_a_dark_dress(page: Page, site: Site) -> None:
    page.goto((site.report / "report.html").as_uri())
    seen = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        seen[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert seen["light"] != seen["dark"]
