"""The command line: `saeaudit.cli.main:run`."""
