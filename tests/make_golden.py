"""Makes the golden files anew: `python -m tests.make_golden`, then read the diff."""

import json

import pytest

import tests.conftest  # noqa: F401  (eight devices, as in the tests)
from experiments import sft_short
from ivx import config, from_config
from tests import test_kernel_method
from tests.test_config import EXPERIMENTS, GOLDEN, parameter_table


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for name, experiment in EXPERIMENTS.items():
        (GOLDEN / f"{name}.json").write_text(config.snapshot(experiment))
    for preset, attention in (("tiny", "m2la"), ("tiny", "gqa"), ("8b", "m2la")):
        experiment = sft_short.get_config(preset)
        experiment.model.attention = attention
        table = parameter_table(from_config.model.definition(experiment))
        path = GOLDEN / f"parameters_{preset}_{attention}.json"
        path.write_text(json.dumps(table, indent=1) + "\n")
    # Numbers of a method are never made anew: other numbers are another method's.
    if not test_kernel_method.GOLDEN.exists():
        with pytest.MonkeyPatch.context() as patch:
            found = test_kernel_method.numbers(patch)
        test_kernel_method.GOLDEN.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
