"""The command line, `rsqa`: one module per group of commands."""
