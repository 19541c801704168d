"""Every sub-command of `ivx`, in the order of the overview, and the module that runs it."""

MODULES = {
    "data": "ivx.commands.data",
    "configs": "ivx.commands.configs",
    "train": "ivx.commands.train",
    "convert": "ivx.commands.convert",
    "recipe": "ivx.commands.recipe.command",
    "import-hf": "ivx.commands.import_hf",
    "export-hf": "ivx.commands.export_hf",
    "verify": "ivx.commands.verify",
    "doctor": "ivx.commands.doctor",
    "evaluate": "ivx.commands.evaluate",
    "chat": "ivx.commands.chat",
    "agent": "ivx.commands.agent",
    "report": "ivx.commands.report",
    "compile": "ivx.commands.compile.command",
    "bench": "ivx.commands.bench",
    "completion": "ivx.commands.completion",
}
