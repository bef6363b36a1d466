"""`raftwork top`: members, queues, workers and failures, redrawn while one looks.

command ──► Asker (a thread: asks, pauses) ──► Scene (one moment, plain data) ──► Screen (a picture of it)
"""
