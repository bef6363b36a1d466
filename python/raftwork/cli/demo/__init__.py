"""The demo: three real nodes, real kills, and a ledger that raftwork cannot write.

`command` is the command line; `show` joins the parts and says what each key does; `crew` are the processes; `stream`
enqueues; `jobs` is what an application would have; `ledger` counts from outside; `keys` are those of a person or of a
script; `view` and `chart` are what a person sees; `code` is what a person takes home; `report` is the end.
"""
