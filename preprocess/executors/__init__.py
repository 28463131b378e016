"""Executors: ways to run the shards of a plan. All give the same store; the serial one is the
reference.
"""
