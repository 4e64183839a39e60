"""Runs windowed streams through Apache Beam's DirectRunner. In an environment of its own; nothing of ours is imported.

In: a JSON list of cases, {"shape", "size", "every", "gap", "lateness", "accumulation", "steps"}; a step is
["event", time, key, value] or ["watermark", time], in seconds. Out: for each case the list of its panes, in order:
[key, start, end, sorted values, late]; null for a case on which Beam's runner fails (it does on some merges of late
sessions, with an error in raising its own error).
"""

import json
import sys
import warnings

warnings.simplefilter("ignore")

import apache_beam as beam  # noqa: E402
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions  # noqa: E402
from apache_beam.testing.test_stream import TestStream  # noqa: E402
from apache_beam.transforms import trigger, window  # noqa: E402
from apache_beam.utils.windowed_value import PaneInfoTiming  # noqa: E402

FOUND = []


class Write(beam.DoFn):
    """Writes panes down: the runner works in this process."""

    def process(self, element, where=beam.DoFn.WindowParam, pane=beam.DoFn.PaneInfoParam):
        """One pane."""
        key, values = element
        late = pane.timing == PaneInfoTiming.LATE
        FOUND.append([key, float(where.start), float(where.end), sorted(values), late])
        return []


def shape_of(case):
    """The window function."""
    if case["shape"] == "session":
        return window.Sessions(case["gap"])
    if case["shape"] == "sliding":
        return window.SlidingWindows(case["size"], case["every"])
    return window.FixedWindows(case["size"])


def panes(case):
    """The panes of a case."""
    stream = TestStream()
    for step in case["steps"]:
        if step[0] == "watermark":
            stream = stream.advance_watermark_to(step[1])
        else:
            _, time, key, value = step
            stream = stream.add_elements([window.TimestampedValue((key, value), time)])
    stream = stream.advance_watermark_to_infinity()
    modes = trigger.AccumulationMode
    accumulation = modes.ACCUMULATING if case["accumulation"] == "accumulating" else modes.DISCARDING
    options = PipelineOptions(["--runner=BundleBasedDirectRunner"])
    options.view_as(StandardOptions).streaming = True
    FOUND.clear()
    with beam.Pipeline(options=options) as pipeline:
        _ = (
            pipeline
            | stream
            | beam.WindowInto(
                shape_of(case),
                trigger=trigger.AfterWatermark(late=trigger.AfterCount(1)),
                accumulation_mode=accumulation,
                allowed_lateness=case["lateness"],
            )
            | beam.GroupByKey()
            | beam.ParDo(Write())
        )
    return list(FOUND)


def panes_or_none(case):
    """The panes of a case; None where the runner fails."""
    try:
        return panes(case)
    except TypeError as error:
        if "BaseException" not in str(error):
            raise
        return None


def main():
    """Answer the cases. Imported, not run as a script: Beam would take copies of what a script holds."""
    json.dump([panes_or_none(case) for case in json.load(sys.stdin)], sys.stdout)
