"""The command line: `raftwork ...`. One file a subject; `main` has the table of commands and imports them when used."""
