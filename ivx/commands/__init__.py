"""The sub-commands of `ivx`, one a file, each with SUMMARY, EXAMPLE, define_flags() and run()."""
