"""The micro-cache as its document describes it: a dict, a lock per entry."""

from __future__ import annotations

import threading
import time


class Entry:
    def __init__(self, timestamp=0, lock=None, result=None):
        self.timestamp = timestamp
        self.lock = lock or threading.Lock()
        self.result = result


class QueryCache:
    def __init__(self, db, threshold=5):
        self.db = db
        self.threshold = threshold
        self.entries = {}
        self.entries_lock = threading.Lock()

    def one(self, query, params=None, process=None):
        return self._do(self.db.one, query, params, process)

    def _do(self, fetch, query, params, process):
        key = (query, tuple(sorted(params.items())) if params else None)
        entry = self.entries.get(key)
        if entry is None:
            with self.entries_lock:
                entry = self.entries.setdefault(key, Entry())
        with entry.lock:
            if time.time() - entry.timestamp > self.threshold:
                result = fetch(query, params)
                entry.result = process(result) if process else result
                entry.timestamp = time.time()
            return entry.result
