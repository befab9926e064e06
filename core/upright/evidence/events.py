"""events.jsonl: what happened, line by line, as it happened. Progress bars, trackers and pages read it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from upright.evidence.files import disk_error


class Events:
    """Appends events to a file and tells them to a listener.

    ``resolution`` is that of the times, in seconds: a private run's are coarse, since how long an update took tells how
    many records it drew.
    """

    def __init__(
        self, path: Path, listen: Callable[[dict[str, Any]], None] | None = None, resolution: float = 0.001
    ) -> None:
        self.path = path
        self.listen = listen
        self.resolution = resolution

    def write(self, event: str, **fields: Any) -> None:
        """Append one line. Raises UprightError when the disk refuses it."""
        now = round(round(time.time() / self.resolution) * self.resolution, 3)
        line = {"time": now, "event": event, **fields}
        try:
            with self.path.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as error:
            raise disk_error(self.path, error) from error
        if self.listen is not None:
            self.listen(line)


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a run; a last line that a crash cut short is left out."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return
