"""The curves of `ivx report`: which metrics are drawn, and which are left out."""

import math

import pytest

from ivx.reporting import curves

STEPS = [2, 4, 6]


def rows(**columns: list[float]) -> list[dict]:
    """Rows of metrics.jsonl; a name's `__` stands for `/`."""
    return [
        {"step": step} | {name.replace("__", "/"): values[i] for name, values in columns.items()}
        for i, step in enumerate(STEPS)
    ]


def drawn(panel) -> list[dict]:
    """For each strip of a panel, label -> points."""
    return [
        {
            line.get_label(): list(zip(*map(list, line.get_data()), strict=True))
            for line in axes.lines
        }
        for axes in panel.axes
    ]


def legend(panel) -> list[str]:
    return [text.get_text() for box in panel.legends for text in box.get_texts()]


def test_pace_has_separate_scales_for_tokens_and_frames():
    [panel] = curves.panels(rows(tokens__sec=[9e5, 8e5, 7e5], frames__sec=[3, 2, 1])).values()
    tokens, frames = drawn(panel)
    assert tokens == {"tokens": [(2, 9e5), (4, 8e5), (6, 7e5)]}
    assert frames == {"frames": [(2, 3), (4, 2), (6, 1)]}
    above, below = panel.axes
    assert above.get_ylim()[1] > 7e5 and below.get_ylim()[1] < 10
    assert above.get_xlim() == below.get_xlim()


def test_efficiency_is_in_per_cent_and_labels_single_line():
    both = curves.panels(rows(mfu=[0.1, 0.4, 0.4], goodput=[0.5, 0.8, 0.9]))["Efficiency"]
    [lines] = drawn(both)
    assert [points[-1] for points in lines.values()] == [(6, 0.4), (6, 0.9)]
    both.draw_without_rendering()
    assert both.axes[0].get_ylim() == (0, 1)
    assert both.axes[0].get_yticklabels()[-1].get_text() == "100"
    # The peak of a CPU is unknown, so a legend must tell which line remains.
    alone = curves.panels(rows(goodput=[0.5, 0.8, 0.9]))["Efficiency"]
    [[label]] = [legend(alone)]
    assert label.startswith("goodput")
    assert alone.axes[0].lines[0].get_color() == both.axes[0].lines[1].get_color()


def test_memory_of_hosts_and_devices_shares_panel():
    host = {"memory__host_gib": [1.0, 2.0, 2.0]}
    [panel] = curves.panels(rows(memory__device_gib=[70.0, 71.0, 71.0], **host)).values()
    [lines] = drawn(panel)
    assert [points[1] for points in lines.values()] == [(4, 71.0), (4, 2.0)]
    assert len(legend(curves.panels(rows(**host))["Memory, high-water mark"])) == 1


@pytest.fixture
def gradients() -> dict[str, list[float]]:
    return {"grad__norm": [5.0, 50.0, 500.0], "grad__lm_head": [0.03, 0.02, 0.01]}


def test_norms_of_all_parts_are_drawn_on_log_scale(gradients):
    """Parts have the names of the model's parameters, here those of a toy."""
    [panel] = curves.panels(rows(**gradients, grad__first=[1.0, 2.0, 3.0])).values()
    [lines] = drawn(panel)
    assert lines == {
        "all": [(2, 5.0), (4, 50.0), (6, 500.0)],
        "first": [(2, 1.0), (4, 2.0), (6, 3.0)],
        "lm head": [(2, 0.03), (4, 0.02), (6, 0.01)],
    }
    assert legend(panel) == list(lines)
    assert panel.axes[0].get_yscale() == "log"


def test_frozen_part_and_count_of_skipped_steps_are_not_drawn(gradients):
    zeros, counted = [0.0, 0.0, 0.0], [1.0, 2.0, 2.0]
    panels = curves.panels(rows(**gradients, grad__visual=zeros, grad__skipped_steps=counted))
    [lines] = drawn(panels["Gradient norms by part"])
    assert list(lines) == ["all", "lm head"]
    assert curves.panels(rows(grad__norm=zeros, grad__skipped_steps=counted)) == {}


def test_many_parts_have_different_line_styles(gradients):
    many = {f"grad__part_{i}": [1.0 + i, 2.0, 3.0] for i in range(12)}
    lines = curves.panels(rows(**gradients, **many))["Gradient norms by part"].axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 14 == len(lines)


def test_long_first_wait_does_not_flatten_later_ones():
    [panel] = curves.panels(rows(data__wait_ms=[20_000.0, 3.0, 2.0])).values()
    low, high = panel.axes[0].get_ylim()
    assert panel.axes[0].get_yscale() == "log" and low < 2 and high > 20_000


def test_run_that_mostly_reads_text_shows_its_frames():
    [panel] = curves.panels(rows(frames__sec=[0.0, 0.0, 8.0])).values()
    assert panel.axes[0].get_ylim()[1] > 8


@pytest.mark.parametrize(
    "values", [[9.0, 2.0, 1.9], [900.0, 2.0, 1.9], [0.0, 300.0, 1.0], [-1, 5, 0]]
)
def test_axes_show_the_whole_curve(values):
    [panel] = curves.panels(rows(loss__total=values)).values()
    panel.draw_without_rendering()
    low, high = panel.axes[0].get_ylim()
    assert low <= min(values) and max(values) <= high
    assert panel.axes[0].get_yscale() == ("log" if values[0] == 900 else "linear")
    assert all(tick == int(tick) for tick in panel.axes[0].get_xticks())


def test_panels_exist_only_for_metrics_with_data():
    assert list(curves.panels(rows(loss__total=[3.0, 2.0, 1.0], tokens__sec=[1.0] * 3))) == [
        "Loss",
        "Pace",
    ]
    assert curves.panels(rows(mfu=[math.nan] * 3)) == {} == curves.panels([])


def test_curves_are_drawn_as_svg(gradients):
    [picture] = curves.draw(rows(**gradients))
    assert picture.startswith("<svg") and "lm head" in picture
