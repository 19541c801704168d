"""A run made longer goes on by a stated rule; one made too short is refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import plan
from ivx import config, from_config
from ivx import workdir as workdirs
from ivx.commands import convert, convert_summary
from ivx.errors import UserError
from ivx.training import optimizer


def run(steps: int, **optim: object) -> config.ml_collections.ConfigDict:
    made = config.base("sft")
    made.run.steps = steps
    made.optim.update(optim)
    return made


def checkpoint(workdir, step: int) -> None:
    (workdir / "checkpoints" / str(step)).mkdir(parents=True)


def test_longer_run_is_explained_and_recorded(tmp_path):
    assert from_config.changed_length.explain(tmp_path, run(60)) == ""
    workdirs.claim(tmp_path, run(60))
    for step in (30, 60):
        checkpoint(tmp_path, step)
    assert from_config.changed_length.explain(tmp_path, run(60)) == ""
    longer = run(80, learning_rate=1e-3, floor=2e-4, schedule="linear", warmup=0.0)
    workdirs.claim(tmp_path / "other", run(60, **longer.optim))
    checkpoint(tmp_path / "other", 60)
    assert from_config.changed_length.explain(tmp_path / "other", longer) == (
        "run.steps 60 -> 80: from step 60 on the learning rate follows the linear schedule of 80"
        " steps; it is 0.0004 at step 60, where that of 60 steps gave 0.0002"
    )
    assert workdirs.claim(tmp_path, run(80), 60) == ["run.steps (60 there, 80 here)"]
    assert workdirs.load(tmp_path).run.steps == 80
    workdirs.claim(tmp_path, run(90), 80)
    rows = [json.loads(line) for line in (tmp_path / workdirs.CHANGES).read_text().splitlines()]
    assert [(row["step"], row["changed"]) for row in rows] == [
        (60, {"run.steps": [60, 80]}),
        (80, {"run.steps": [80, 90]}),
    ]


def test_run_is_not_made_shorter_than_its_checkpoint(tmp_path):
    workdirs.claim(tmp_path, run(80))
    checkpoint(tmp_path, 60)
    assert "from step 60 on" in from_config.changed_length.explain(tmp_path, run(60))
    with pytest.raises(UserError, match=r"checkpoint of step 60, .* run.steps of at least 60"):
        from_config.changed_length.explain(tmp_path, run(59))
    second = run(50)
    second.watch.remote = str(tmp_path / "remote")
    checkpoint(tmp_path / "remote", 70)
    with pytest.raises(UserError, match="checkpoint of step 70"):
        from_config.changed_length.explain(tmp_path, second)


def test_refusal_names_what_may_change(tmp_path):
    workdirs.claim(tmp_path, run(60))
    with pytest.raises(UserError) as error:
        workdirs.check(tmp_path, run(80, learning_rate=1.0))
    message = str(error.value)
    assert "another config: optim.learning_rate" in message and "run.steps (60" not in message
    for name in ("mesh.*", "watch.*", "run.steps", "run.keep", "optim.accumulation"):
        assert name in message.partition("only ")[2]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_rates_after_the_change_are_those_of_the_new_schedule(schedule, data):
    """The state of the optimizer holds a count of steps and nothing of the former schedule."""
    old, new = (data.draw(st.integers(1, 12)) for _ in range(2))
    done = data.draw(st.integers(0, min(old, new - 1)))
    specs = [
        from_config.training.optimizer_spec(run(steps, schedule=schedule, warmup=0.2))
        for steps in (old, new)
    ]
    first, second = (optimizer.make_optimizer(spec) for spec in specs)
    params = {"w": jnp.zeros(1)}
    state = first.init(params)
    for _ in range(done):
        _, state = first.update({"w": jnp.ones(1)}, state, params)
    update, _ = second.update({"w": jnp.ones(1)}, state, params)
    rate = optimizer.learning_rate(specs[1])(done)
    # Adam's step of a constant gradient is the rate.
    np.testing.assert_allclose(-update["w"][0], rate, rtol=1e-4, atol=1e-12)


def test_longer_plan_begins_with_the_shorter_one(samples, rule, shape):
    member = plan.Member(plan.measure(samples, rule, shape), 1.5)

    def packs(count: int, level: bool) -> list[tuple[str, ...]]:
        made = plan.make_plan([member], shape, count, 2, seed=5, level=level)
        return [tuple(sample.id for sample in pack) for pack in made.packs]

    for level in (True, False):
        longest = packs(40, level)
        for count in (2, 6, 22):
            assert packs(count, level) == longest[:count]


def test_conversion_with_more_steps_of_matching_is_not_complete(tmp_path):
    longer = config.base("convert")
    longer.run.steps = 80
    result = {convert_summary.MATCHED: {"steps": 60}}
    assert not convert._is_complete(result, longer, tmp_path)
    longer.run.steps = 60
    assert convert._is_complete(result, longer, tmp_path)
