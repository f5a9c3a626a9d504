"""Apache Beam: the tasks of a phase are a collection, and a pipeline maps over it.

Beam moves no text: tasks read and write the work folder, which all its workers must reach. The
DirectRunner serves tests; options such as --runner=DataflowRunner go to Beam as they are.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from jaxllm.core.display import Display
from jaxllm.core.errors import UserError
from jaxllm.core.paths import atomic_write_text, make_directory, path
from jaxllm.data.prepare.runners.base import Progress
from jaxllm.data.prepare.work import Task, execute, whole_files

POLL_MILLISECONDS = 10_000
FAILED = "failed"  # the folder of the work folder for the errors of users that tasks met


class BeamRunner:
    """Runs a pipeline for each phase."""

    def __init__(self, options: Sequence[str] = ()):
        """`options` are Beam's own, such as --region=….

        Raises:
          UserError: Beam is not installed, or an option is unknown to it.
        """
        if importlib.util.find_spec("apache_beam") is None:
            raise UserError(
                "--runner=beam needs Apache Beam, which is not installed here. Install "
                "'apache-beam[gcp]' into an environment of its own (it wants an older protobuf "
                "than jaxllm's training), or leave --runner out: one machine needs none."
            )
        self._options = list(options)

    def run(self, title: str, tasks: Sequence[Task], done: int, display: Display) -> None:
        """Does all tasks."""
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners.runner import PipelineState

        folder = path(tasks[0].work.folder) / FAILED
        if folder.exists():
            folder.rmtree()
        make_directory(folder)
        pipeline = apache_beam.Pipeline(options=PipelineOptions(self._options))
        (
            pipeline
            | "tasks" >> apache_beam.Create(list(tasks))
            | "spread" >> apache_beam.Reshuffle()
            | title >> apache_beam.Map(attempt)
        )
        with Progress(display, title, done, done + len(tasks)) as progress:
            result = pipeline.run()
            marks = tasks[0].marker.parent
            while not PipelineState.is_terminal(result.state):
                result.wait_until_finish(duration=POLL_MILLISECONDS)
                progress.update(len(whole_files(marks)))
            if result.state != PipelineState.DONE:
                raise UserError(
                    f"The Beam pipeline of {title!r} ended as {result.state}. Its log says why; "
                    "the same command goes on where it was."
                )
            progress.update(done + len(tasks))
        if failures := whole_files(folder):
            raise UserError(failures[0].read_text())

    def close(self) -> None:
        """Nothing stays between phases."""


def attempt(task: Task) -> None:
    """Does a task that Beam may have done already; a user's mistake is left for the driver."""
    if task.marker.exists():
        return
    try:
        execute(task)
    except UserError as error:
        folder = path(task.work.folder) / FAILED
        atomic_write_text(folder / f"{task.index:07d}", str(error))
