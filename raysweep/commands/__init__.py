"""One verb a file: `add_arguments(parser)`, `EXAMPLES`, `run(arguments) -> exit code`. Heavy imports only inside `run`."""
