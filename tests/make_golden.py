"""Makes the golden files anew: `python -m tests.make_golden`, then read the diff."""

import json

import tests.conftest  # noqa: F401  (eight devices, as in the tests)
from experiments import sft_short
from ivx import build, config
from tests.test_config import EXPERIMENTS, GOLDEN, parameter_table


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for name, experiment in EXPERIMENTS.items():
        (GOLDEN / f"{name}.json").write_text(config.snapshot(experiment))
    for preset, attention in (("tiny", "m2la"), ("tiny", "gqa"), ("8b", "m2la")):
        experiment = sft_short.get_config(preset)
        experiment.model.attention = attention
        table = parameter_table(build.model_definition(experiment))
        path = GOLDEN / f"parameters_{preset}_{attention}.json"
        path.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
