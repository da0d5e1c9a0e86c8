"""One measurement of one of Python's pools: peers.py CONTESTANT JOB [--quick].

Prints one line of JSON: figures by name, in seconds, bytes, per second. The
jobs are those of ../src/contestant.rs.
"""

import concurrent.futures
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time

import tasks

SQUARES_CHUNKS = (10_000, 50_000, 250_000)


class Pool:
    """multiprocessing.Pool, which forks here."""

    chunks = (16, 256)

    def __init__(self, workers):
        self.workers = workers
        self.pool = multiprocessing.Pool(workers)

    def call(self, function, *args):
        return self.pool.apply(function, args)

    def start(self, function, *args):
        return self.pool.apply_async(function, args)

    def answer(self, started):
        return started.get()

    def stream(self, function, inputs, chunk):
        return self.pool.imap_unordered(function, inputs, chunk)

    def map(self, function, inputs, chunk):
        return self.pool.map(function, inputs, chunk)

    def squares(self, n, chunk):
        return self.pool.map(tasks.square, range(n), chunk)

    def pids(self):
        return [process.pid for process in self.pool._pool]

    def kill(self):
        self.pool.terminate()
        self.pool.join()

    close = kill


class ProcessPoolExecutor:
    """concurrent.futures, which forks here. Its `map` is its only stream."""

    chunks = (16, 256)
    executor_type = concurrent.futures.ProcessPoolExecutor

    def __init__(self, workers):
        self.workers = workers
        self.executor = self.executor_type(workers)

    def call(self, function, *args):
        return self.executor.submit(function, *args).result()

    def start(self, function, *args):
        return self.executor.submit(function, *args)

    def answer(self, started):
        return started.result()

    def stream(self, function, inputs, chunk):
        return self.executor.map(function, inputs, chunksize=chunk)

    def map(self, function, inputs, chunk):
        return list(self.executor.map(function, inputs, chunksize=chunk))

    def squares(self, n, chunk):
        return self.map(tasks.square, range(n), chunk)

    def pids(self):
        return list(self.executor._processes)

    def kill(self):
        for process in list(self.executor._processes.values()):
            process.kill()
        self.executor.shutdown()

    def close(self):
        self.executor.shutdown()


class Loky(ProcessPoolExecutor):
    """loky, which starts Python anew for each worker."""

    def __init__(self, workers):
        import loky

        self.executor_type = loky.ProcessPoolExecutor
        super().__init__(workers)

    def kill(self):
        self.executor.shutdown(kill_workers=True)


class Joblib:
    """joblib.Parallel over its own loky, kept open between calls. With one worker
    it calls functions where it is, so it is always given two."""

    chunks = ("auto",)
    start = None
    kill = None

    def __init__(self, workers):
        import joblib

        self.workers = max(2, workers)
        self.joblib = joblib
        self.parallel = joblib.Parallel(self.workers)
        self.parallel.__enter__()

    def run(self, calls, chunk="auto", return_as="list"):
        parallel = self.parallel
        if (chunk, return_as) != ("auto", "list"):
            parallel = self.joblib.Parallel(self.workers, batch_size=chunk, return_as=return_as)
        return parallel(self.joblib.delayed(function)(*args) for function, *args in calls)

    def call(self, function, *args):
        return self.run([(function, *args)])[0]

    def stream(self, function, inputs, chunk):
        calls = ((function, each) for each in inputs)
        return self.run(calls, chunk, "generator_unordered")

    def map(self, function, inputs, chunk):
        return self.run(((function, each) for each in inputs), chunk)

    def squares(self, n, chunk):
        """A million calls would be its own cost, so they are cut by hand."""
        starts = range(0, n, chunk)
        calls = ((tasks.squares, range(i, min(n, i + chunk))) for i in starts)
        return [square for part in self.run(calls, 1) for square in part]

    def pids(self):
        return list(self.executor()._processes)

    def close(self):
        self.parallel.__exit__(None, None, None)
        self.executor().shutdown()

    def executor(self):
        """It outlives a `Parallel`, to be used by the next one."""
        from joblib.externals.loky import get_reusable_executor

        return get_reusable_executor(reuse=True)


CONTESTANTS = {
    "Pool": Pool,
    "ProcessPoolExecutor": ProcessPoolExecutor,
    "loky": Loky,
    "joblib": Joblib,
}


class Gate:
    """Files by which a task and its parent tell each other where they are."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.folder.name, "gate")

    def wait_for(self, path):
        while not os.path.exists(path):
            time.sleep(0.0002)
        os.remove(path)

    def open(self):
        open(self.path, "w").close()


def clock(function):
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def seed(i):
    return i % 16 + 1


def warm(contestant, workers):
    made = contestant(workers)
    for i in range(50):
        assert made.call(tasks.work, i, 0) == i
    return made


def percentile(took, percent):
    return sorted(took)[(len(took) - 1) * percent // 100]


def round_trip(contestant, quick):
    values = {}
    for workers, name in (1, "one"), (2, "two"):
        if contestant is Joblib and workers == 1:
            continue
        made = warm(contestant, workers)
        calls = 300 if quick else 2000
        took = [clock(lambda: made.call(tasks.work, 7, 0)) for _ in range(calls)]
        assert all(answer == 7 for _, answer in took)
        made.close()
        values[f"{name}_p50"] = percentile([each for each, _ in took], 50)
        values[f"{name}_p99"] = percentile([each for each, _ in took], 99)
    return values


def each_of(made, inputs):
    started = [made.start(tasks.work, *pair) for pair in inputs]
    return [made.answer(call) for call in started]


def in_flight(contestant, quick):
    made = warm(contestant, 2)
    inputs = [(seed(i), 0) for i in range(2000 if quick else 20_000)]
    expected = sorted(answer for answer, _ in inputs)

    def rate(run):
        took, answers = clock(run)
        assert sorted(answers) == expected
        return len(inputs) / took

    values = {}
    if made.start:
        values["each"] = max(rate(lambda: each_of(made, inputs)) for _ in range(3))
    def stream(*chunks):
        runs = [lambda c=c: list(made.stream(tasks.work_pair, inputs, c)) for c in chunks]
        return max(rate(run) for run in runs for _ in range(2))

    values["stream"] = stream(1)
    values["chunked"] = stream(*made.chunks)
    made.close()
    return values


def a_million(contestant, quick):
    made = warm(contestant, 2)
    n = 1_000_000
    best = 0
    for chunk in SQUARES_CHUNKS:
        took, answers = clock(lambda: made.squares(n, chunk))
        assert answers == [i * i for i in range(n)]
        best = max(best, n / took)
    made.close()
    return {"map": best}


def efficiency(contestant, quick):
    made = warm(contestant, 2)
    fastest = min(clock(lambda: tasks.work(1, 100_000))[0] for _ in range(5))
    steps = int(100e-6 * 100_000 / fastest)
    inputs = [(seed(i), steps) for i in range(2000 if quick else 20_000)]
    answers = [tasks.work(seed(i), steps) for i in range(16)]
    expected = sorted(answers[first - 1] for first, _ in inputs)

    def serial():
        return clock(lambda: [tasks.work(seed(i), steps) for i in range(1000)])[0] / 1000

    def share(run):
        # The machine's speed may change meanwhile.
        before = serial()
        took, answers = clock(run)
        assert sorted(answers) == expected
        return (before + serial()) / 2 * len(inputs) / (2 * took)

    chunks = (1, *made.chunks)
    values = {
        "map": max(share(lambda: made.map(tasks.work_pair, inputs, chunk)) for chunk in chunks),
        "stream": max(
            share(lambda: list(made.stream(tasks.work_pair, inputs, chunk))) for chunk in chunks
        ),
    }
    if made.start:
        values["each"] = share(lambda: each_of(made, inputs))
    made.close()
    return values


def echo(contestant, quick):
    made = warm(contestant, 1)
    values = {}
    for name, length, times in ("large", 64 << 20, 1), ("small", 1 << 20, 20):
        data = bytes(i % 251 for i in range(1 << 20)) * (length >> 20)
        took = []
        for _ in range(times * (3 if quick else 9) + 1):
            each, back = clock(lambda: made.call(tasks.echo, data))
            assert back == data
            took.append(each)
        values[name] = statistics.median(took[1:])
    made.close()
    return values


def first_result(contestant, quick):
    took = []
    for _ in range(3 if quick else 9):
        each, made = clock(lambda: contestant(2))
        first, answer = clock(lambda: made.call(tasks.work, 7, 0))
        assert answer == 7
        made.close()
        took.append(each + first)
    return {"first_result": statistics.median(took)}


def cancel(contestant, quick):
    if not contestant.kill:
        return {}
    gate = Gate()
    took = []
    for _ in range(3 if quick else 15):
        made = warm(contestant, 1)
        made.start(tasks.hang, gate.path)
        gate.wait_for(gate.path)
        killed, _ = clock(made.kill)
        made_again, again = clock(lambda: contestant(1))
        first, answer = clock(lambda: again.call(tasks.work, 7, 0))
        assert answer == 7
        again.close()
        took.append(killed + made_again + first)
    return {"cancel": statistics.median(took)}


def private_bytes(pid):
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        private = [line.split()[1] for line in rollup if line.startswith("Private_")]
    return 1024 * sum(map(int, private))


def memory(contestant, quick):
    made = warm(contestant, 2)
    time.sleep(0.3)
    values = {"worker": min(map(private_bytes, made.pids()))}
    made.close()
    if not made.start:
        return values

    gate = Gate()
    made = warm(contestant, 1)
    calls = 20_000 if quick else 100_000
    memory, descriptors = private_bytes("self"), len(os.listdir("/proc/self/fd"))
    held = made.start(tasks.hold, gate.path)
    gate.wait_for(gate.path + ".running")
    queued = [made.start(tasks.work, i, 0) for i in range(calls)]
    values["queued"] = (private_bytes("self") - memory) / calls
    values["descriptors"] = (len(os.listdir("/proc/self/fd")) - descriptors) / calls
    gate.open()
    made.answer(held)
    assert [made.answer(call) for call in queued] == list(range(calls))
    made.close()
    return values


# What is in multiprocessing beside its pool.


def pong(end):
    try:
        while True:
            end.send(end.recv())
    except EOFError:
        pass


def pipe(quick):
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=pong, args=(theirs,))
    process.start()
    theirs.close()

    def ping():
        ours.send(7)
        return ours.recv()

    took = [clock(ping) for _ in range(1000 if quick else 10_000)]
    assert all(answer == 7 for _, answer in took)
    # It was forked with our end.
    process.kill()
    process.join()
    took = [each for each, _ in took]
    return {"p50": percentile(took, 50), "p99": percentile(took, 99)}


def produce(queue, go, count):
    go.wait()
    for n in range(count):
        queue.put(n)


def consume(queue, go, got):
    go.wait()
    count = 0
    while queue.get() is not None:
        count += 1
    got.put(count)


def queue(quick):
    values = {}
    items = 20_000 if quick else 200_000
    for name, producers, consumers in ("one_one", 1, 1), ("two_one", 2, 1), ("two_two", 2, 2):
        queue, got = multiprocessing.Queue(), multiprocessing.SimpleQueue()
        go = multiprocessing.Event()
        puts = [
            multiprocessing.Process(target=produce, args=(queue, go, items // producers))
            for _ in range(producers)
        ]
        gets = [multiprocessing.Process(target=consume, args=(queue, go, got)) for _ in range(consumers)]
        for process in puts + gets:
            process.start()
        time.sleep(0.2)

        def run():
            go.set()
            for process in puts:
                process.join()
            for _ in gets:
                queue.put(None)
            return sum(got.get() for _ in gets)

        took, count = clock(run)
        assert count == items
        for process in gets:
            process.join()
        values[name] = items / took
    return values


def answer(pipe, n):
    pipe.send(n + 1)


def started(method):
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=answer, args=(theirs, 1))
    process.start()
    assert ours.recv() == 2
    process.join()
    assert process.exitcode == 0


def start(quick):
    values = {}
    memory = None
    for suffix in "", "_large":
        for name, method in ("fork", "fork"), ("spawn", "spawn"), ("server", "forkserver"):
            started(method)
            took = [clock(lambda: started(method))[0] for _ in range(20 if quick else 100)]
            values[name + suffix] = statistics.median(took)
        memory = memory or bytearray(b"1") * (4 << 30)
    return values


JOBS = {
    "round_trip": round_trip,
    "in_flight": in_flight,
    "map": a_million,
    "efficiency": efficiency,
    "echo": echo,
    "first_result": first_result,
    "cancel": cancel,
    "memory": memory,
}

PARTS = {"pipe": pipe, "queue": queue, "start": start}

if __name__ == "__main__":
    who, job = sys.argv[1:3]
    quick = "--quick" in sys.argv
    if who == "multiprocessing":
        values = PARTS[job](quick) if job in PARTS else {}
    else:
        # One is for procession alone.
        values = JOBS[job](CONTESTANTS[who], quick) if job in JOBS else {}
    print(json.dumps(values), flush=True)
