"""Batches of the images that wait, for ``isoflop serve``."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future

import numpy as np

from isoflop.data.arrays import Images
from isoflop.inference.onnx_files import Floats, OnnxClassifier
from isoflop.inference.prediction import scores_of

_BATCH = 64  # images
_WAIT_S = 0.005  # for more images, after the first of a batch
_MOST_BATCH_BYTES = 256 << 20


class BusyError(Exception):
    """Too many images are waiting."""


class Batches:
    """Runs the classifier in one thread, on batches of the images that wait."""

    def __init__(self, classifier: OnnxClassifier, waiting: int) -> None:
        self.classifier = classifier
        self.failure = ""  # why the model can no longer run
        each = classifier.image_size**2 * classifier.channels
        self._most = min(_BATCH, max(1, _MOST_BATCH_BYTES // each))
        self._queue: queue.Queue[tuple[Images, Future[Floats]]] = queue.Queue(waiting)
        threading.Thread(target=self._run, daemon=True).start()

    def probabilities(self, pixels: list[Images]) -> list[Future[Floats]]:
        """Queue images [H, W, C]; each future gives the probabilities [K] of one.

        Raises:
            BusyError: the queue is full.
        """
        futures: list[Future[Floats]] = []
        for image in pixels:
            future: Future[Floats] = Future()
            try:
                self._queue.put_nowait((image, future))
            except queue.Full:
                for queued in futures:
                    queued.cancel()
                raise BusyError from None
            futures.append(future)
        return futures

    def _run(self) -> None:
        while True:
            batch = [self._queue.get()]
            until = time.monotonic() + _WAIT_S
            while len(batch) < self._most:
                try:
                    batch.append(self._queue.get(timeout=max(0.0, until - time.monotonic())))
                except queue.Empty:
                    break
            batch = [one for one in batch if one[1].set_running_or_notify_cancel()]
            if not batch:
                continue
            try:
                found = scores_of(self.classifier, np.stack([image for image, _ in batch]))
            except Exception as error:  # the thread must go on, and every request get an answer
                self.failure = str(error)
                for _, future in batch:
                    future.set_exception(error)
            else:
                self.failure = ""
                for (_, future), (probabilities_K, _) in zip(batch, found, strict=True):
                    future.set_result(probabilities_K)
