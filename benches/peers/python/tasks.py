"""The tasks. In a module of their own, so that they travel as names."""

import os
import time

MASK = (1 << 64) - 1


def work(seed, steps):
    """A no-op with 0 steps, and steady work otherwise."""
    for _ in range(steps):
        seed = (seed * 6364136223846793005 + 1442695040888963407) & MASK
    return seed


def work_pair(pair):
    return work(*pair)


def square(n):
    return n * n


def squares(numbers):
    return [n * n for n in numbers]


def echo(data):
    return data


def hang(running):
    """Says that it runs, then computes for ever."""
    open(running, "w").close()
    while True:
        work(1, 1000)


def hold(gate):
    """Says that it runs, then keeps its worker until the gate is opened."""
    open(gate + ".running", "w").close()
    while not os.path.exists(gate):
        time.sleep(0.0002)
