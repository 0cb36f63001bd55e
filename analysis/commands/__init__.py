"""The command line of the law: one module a command, arguments in, files out, errors as one readable line."""
