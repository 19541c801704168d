"""The sub-commands of `ivx`, one a file: each has SUMMARY, EXAMPLE, define_flags() and run(flags) -> dict."""
