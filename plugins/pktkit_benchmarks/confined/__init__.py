"""What runs on the other side of the wall: workers that evaluate what a model wrote.

The modules here import the standard library only, and each other relatively: a worker is a plain
interpreter without site-packages, started by `pktkit_benchmarks.worker_process`.
"""
