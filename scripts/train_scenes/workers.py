"""Worker processes that make steps, and shared memory that hands them over.

Each worker owns a few slots of anonymous shared memory.  It writes the arrays of a step into one
and sends only their names, types, shapes and offsets through a queue.
"""

import mmap
import multiprocessing
import os
import queue
import signal
import threading
import time

import numpy as np
import torch

SLOTS = 3
ALIGNMENT = 64


def write(buffer, arrays):
    """Arrays one after the other into a buffer: [(name, dtype, shape, offset)], bytes used."""
    listed, at = [], 0
    for name, array in arrays.items():
        end = at + array.nbytes
        if end > len(buffer):
            raise ValueError(f"a step takes more than the {len(buffer)} bytes of a slot")
        np.frombuffer(buffer, array.dtype, array.size, at)[:] = array.ravel()
        listed.append((name, array.dtype.str, array.shape, at))
        at = -(-end // ALIGNMENT) * ALIGNMENT
    return listed, at


TYPES = {"|u1": torch.uint8, "<i2": torch.int16, "<i4": torch.int32, "<f4": torch.float32}


def views(flat, listed):
    """{name: tensor} inside a flat uint8 tensor."""
    found = {}
    for name, dtype, shape, at in listed:
        kind = TYPES[dtype]
        size = int(np.prod(shape)) * kind.itemsize
        found[name] = flat[at : at + size].view(kind).view(shape)
    return found


def _work(make, first, stride, slots, free, ready):
    os.nice(5)  # the trainer goes first
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent, step = os.getppid(), first
    while True:
        try:
            slot = free.get(timeout=5)
        except queue.Empty:
            if os.getppid() != parent:  # the trainer is gone
                return
            continue
        began = time.process_time()
        try:
            arrays, layout = make(step)
            listed, used = write(slots[slot], arrays)
        except Exception as error:
            ready.put(f"step {step}: {type(error).__name__}: {error}")
            raise
        layout["drawing"] = time.process_time() - began
        ready.put((slot, listed, used, layout))
        step += stride


class Stream:
    """Steps `first`, `first + 1`, ... made by worker processes, as tensors on a device.

    make(step) -> (arrays, layout).  slot_bytes: room for one step.  Start it before PyTorch
    computes anything: the workers are forks, and threads do not survive that.
    """

    def __init__(self, make, first, workers, slot_bytes, device):
        context = multiprocessing.get_context("fork")
        self.device = torch.device(device)
        self.workers, self.waited = [], 0.0
        for index in range(workers):
            slots = [mmap.mmap(-1, slot_bytes) for _ in range(SLOTS)]
            free, ready = context.Queue(), context.Queue()
            for slot in range(SLOTS):
                free.put(slot)
            arguments = (make, first + index, workers, slots, free, ready)
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            self.workers.append((process, slots, free, ready))
        self.source = self._tensors()
        if self.device.type == "cuda":
            self.source = self._pinned(slot_bytes)

    def _messages(self):
        while True:
            for process, slots, free, ready in self.workers:
                while True:
                    try:
                        message = ready.get(timeout=10)
                        break
                    except queue.Empty:
                        if not process.is_alive():
                            raise RuntimeError("a worker process ended") from None
                if isinstance(message, str):
                    raise RuntimeError(f"a worker failed at {message}")
                yield slots, free, message

    def _tensors(self):
        for slots, free, (slot, listed, used, layout) in self._messages():
            flat = torch.frombuffer(slots[slot], dtype=torch.uint8, count=used).clone()
            free.put(slot)
            yield views(flat, listed), layout

    def _pinned(self, slot_bytes, depth=3):
        """Through pinned buffers, filled by a thread, and asynchronous copies to the GPU."""
        try:
            buffers = [torch.empty(slot_bytes, dtype=torch.uint8, pin_memory=True)
                       for _ in range(depth + 2)]  # fmt: skip
        except RuntimeError as error:
            print(f"no pinned memory, plain copies instead: {error}", flush=True)
            buffers = [torch.empty(slot_bytes, dtype=torch.uint8) for _ in range(depth + 2)]
        empty, full = queue.Queue(), queue.Queue()
        for buffer in buffers:
            empty.put((buffer, None))

        def read():
            try:
                for slots, free, (slot, listed, used, layout) in self._messages():
                    buffer, event = empty.get()
                    if event:
                        event.synchronize()
                    buffer[:used].copy_(
                        torch.frombuffer(slots[slot], dtype=torch.uint8, count=used)
                    )
                    free.put(slot)
                    full.put((buffer, listed, used, layout))
            except BaseException as error:
                full.put(error)

        threading.Thread(target=read, daemon=True).start()
        while True:
            message = full.get()
            if isinstance(message, BaseException):
                raise message
            buffer, listed, used, layout = message
            flat = torch.empty(used, dtype=torch.uint8, device=self.device)
            flat.copy_(buffer[:used], non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            empty.put((buffer, event))
            yield views(flat, listed), layout

    def __next__(self):
        """(tensors, layout) of the next step."""
        began = time.monotonic()
        found = next(self.source)
        self.waited += time.monotonic() - began
        return found

    def close(self):
        """End the workers."""
        for process, *_ in self.workers:
            process.terminate()
