"""Equal figures give equal bytes, without a date."""

from __future__ import annotations

from pathlib import Path

from matplotlib.colors import to_rgb
from PIL import Image

from rsqa_pipeline import plots


def draw(path: Path) -> bytes:
    figure, axes = plots.new_figure(4, 3)
    axes.plot([1, 2, 3], [3, 1, 2], label="a line")
    plots.interval_bars(axes, [1, 2], [3, 1], [2.5, 0.5], [3.5, 1.0])
    axes.legend()
    plots.save(figure, path)
    return path.read_bytes()


def test_same_plot_same_bytes_without_a_date(tmp_path: Path) -> None:
    assert draw(tmp_path / "new_folder" / "a.png") == draw(tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        assert image.size == (576, 432)
        assert not {"Software", "Creation Time"} & set(image.info)


def test_panels_are_side_by_side() -> None:
    _, panels = plots.new_panels(3, 9, 3)
    columns = [axes.get_subplotspec().colspan.start for axes in panels]
    assert columns == [0, 1, 2]


def test_a_subset_has_its_selectors_colour_and_further_ones_lighter_shades() -> None:
    found = plots.subset_colours(
        {"all": "all", "p10": "score_model", "p30": "score_model", "both": None, "clip": "clip_score"}
    )
    assert found["all"] == plots.colour("all") and found["p10"] == plots.colour("score_model")
    assert len(set(found.values())) == len(found)
    assert to_rgb(found["p30"]) > to_rgb(found["p10"])


def test_a_name_without_a_colour_is_grey() -> None:
    assert plots.colour("unheard_of") == plots.colour("another")
