"""The sub-commands of `ivx`, one per file, each with SUMMARY, EXAMPLE, define_flags() and run()."""
