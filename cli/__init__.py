"""The command line: click, and only click, until a command runs."""
