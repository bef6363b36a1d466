"""The demo: real files, real processes, real kills, and a ledger that raftwork cannot write.

`command` says what happens in which order; `jobs` is what an application would have; `ledger` counts from outside;
`crew` are the processes; `child` is what they run; `view` is what a person sees.
"""
