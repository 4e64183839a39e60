"""The component's entry: everything imported here is part of the snapshot that every instance starts from."""

# ruff: noqa: F401 - imported so that functions find these modules ready
import abc
import array
import base64
import binascii
import bisect
import calendar
import collections
import contextlib
import copy
import csv
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import gc
import hashlib
import heapq
import io
import itertools
import json
import logging
import math
import operator
import random
import re
import statistics
import string
import struct
import sys
import textwrap
import time
import types
import typing
import urllib.parse
import uuid
import zlib

import edge
import wit_world
from componentize_py_types import Err
from edge._event import Event
from edge._load import Loaded, LoadError, load
from edge._runtime import capture, refuse_sleep, run
from edge._terms import Given, OutputLimits, Terms
from stdlib import Finder
from wit_world.imports import host

sys.meta_path.append(Finder())
sys.path.clear()
time.sleep = refuse_sleep

_decode = json.JSONDecoder().decode
_loaded: Loaded
_terms = Terms()


class WitWorld(wit_world.WitWorld):
    """The functions that the host calls."""

    def load(self, app: str, seed: int) -> str:
        """Load `{"files": {path: source}, "entry": path, "limits": {...}, "grants": [...], "data": {path: base64}}`.

        Answers the manifest.
        """
        global _loaded, _terms
        capture()
        random.seed(seed)
        request = _decode(app)
        grants = tuple(request.get("grants", ()))
        _terms = Terms(OutputLimits(**request["limits"]), grants, request.get("data", {}))
        try:
            _loaded = load(request["files"], request["entry"])
        except LoadError as error:
            problem = {"file": error.file, "line": error.line, "reason": error.reason}
            raise Err(json.dumps(problem)) from None
        return _loaded.manifest()

    def run(self, function: str, events: str, given: str) -> None:
        """Run a function over events, each an array of the fields of `Event`; `given`: the fields of `Given`."""
        provided = Given(**_decode(given)) if given else Given()
        for fields in _decode(events):
            if not host.done(run(_loaded, function, Event(*fields), _terms, provided)):
                return


def _rehearse() -> None:
    """Touch everything a call touches, so that the snapshot holds it warm, and forget the app again."""
    global _loaded
    source = (
        "import edge\napp = edge.App('rehearsal')\n@app.on('a')\ndef f(event, ctx):\n"
        "    ctx.emit('b', {'c': [1, 2.5, None, True, 'd']})\n    print(event.data)\n"
        "@app.on('a')\ndef g(event, ctx):\n    ctx.state['n'] = ctx.state.get('n', 0) + 1\n    return 1 / 0\n"
    )
    _loaded = load({"rehearsal.py": source}, "rehearsal.py")
    _loaded.manifest()
    streams = capture()
    event = Event(*_decode('["d","a",0,{"e":1.5},"d/0/0",0,"",0]'))
    for name in ("f", "g"):
        run(_loaded, name, event, _terms, Given({"d": {"n": ("1", 0)}}))
    sys.stdout, sys.stderr = streams
    del sys.modules["rehearsal"]


_rehearse()
gc.collect()
gc.freeze()
