"""Recognition in a stream that may never end: push samples, get events, in bounded memory.

Windows start at k * hop, as segments of a recording do. A window from s to s + L says what is in
its middle: it speaks for the hop around its centre, s + L/2 - hop/2 to s + L/2 + hop/2, and these
hops follow each other without a gap. Events start and end with them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from deepspectrumlite.audio import pad_segment
from deepspectrumlite.decode import MAX_SAMPLE_RATE, Waveform
from deepspectrumlite.errors import AudioError
from deepspectrumlite.postprocess import Event as Event
from deepspectrumlite.postprocess import PostProcessor, Scores, Span
from deepspectrumlite.stream_settings import StreamSettings as StreamSettings
from deepspectrumlite.windows import LOWEST_DB as LOWEST_DB
from deepspectrumlite.windows import Cutter, Resampler, level_db, to_mono

if TYPE_CHECKING:
    from deepspectrumlite.predict import Recogniser

_GAP_BLOCK = 2**16


@dataclass(frozen=True)
class Window:
    """What was found in one window.

    ``level_db`` is its RMS in dBFS (0: an RMS of 1), at least -120; what fills up a last window
    that is too short does not count. ``scores`` are the model's,
    (n_outputs,), and ``smoothed`` those that events are made of. Where nothing was scored, for
    lost samples or a level below the gate, ``is_scored`` is False, and the scores are 0, or for
    numbers NaN. ``events`` are those that it announces or ends.
    """

    start_seconds: float
    end_seconds: float
    level_db: float
    is_scored: bool
    scores: Scores = field(repr=False)
    smoothed: Scores = field(repr=False)
    events: tuple[Event, ...] = ()
    span: Span = field(default=Span(0, 0, 0), repr=False)


class StreamingClassifier:
    """Recognises in a stream; the result is the same, bit for bit, for every size of chunk.

    Attributes:
        settings: as given
        hop_samples: from the start of a window to the next, at the model's rate
        num_bad_samples: frames with NaN or infinity so far, which were replaced by 0
        num_lost_samples: those of :meth:`push_gap` so far
        num_windows: so far

    Args:
        recogniser: the model
        settings: of post-processing
        sample_rate: of what is pushed, in Hz; None: that of the model
        on_window: is told of each window, for a display or a table of scores
        max_batch: windows that may be scored at once where one push completes several. A model's
            scores can depend on the size of the batch in their last bits, so only 1 promises
            the same for every chunk

    Raises:
        ModelError: settings that do not fit the model
        AudioError: an impossible sample rate
    """

    def __init__(
        self,
        recogniser: Recogniser,
        settings: StreamSettings | None = None,
        *,
        sample_rate: int | None = None,
        on_window: Callable[[Window], None] | None = None,
        max_batch: int = 1,
    ) -> None:
        self.settings = settings or StreamSettings()
        self._recogniser = recogniser
        self._cutting = cutting = recogniser.cutting
        self.settings.check_for(cutting, recogniser.decision)
        self._rate = cutting.sample_rate
        self._input_rate = self._rate if sample_rate is None else sample_rate
        if not 1 <= self._input_rate <= MAX_SAMPLE_RATE:
            raise AudioError(f"sample_rate is {sample_rate}; allowed: 1 to {MAX_SAMPLE_RATE} Hz")
        self.hop_samples = self.settings.hop_samples(cutting)
        self._post = PostProcessor(self.settings, recogniser.decision, self.hop_samples, self._rate)
        self._resampler = Resampler(self._input_rate, self._rate)
        self._cutter = Cutter(cutting.segment_samples, self.hop_samples)
        self._tell = on_window
        self._max_batch = max_batch
        # (begin, end) of the gaps that windows to come can lie in, in samples of the input.
        self._gaps: deque[tuple[int, int]] = deque()
        self._num_pushed = 0
        self._is_finished = False
        self.num_bad_samples = self.num_lost_samples = self.num_windows = 0

    @property
    def seconds(self) -> float:
        """How much of the stream has come, with what was lost."""
        return self._num_pushed / self._input_rate

    def push(self, samples: npt.NDArray[Any]) -> list[Event]:
        """Hear the next samples.

        Args:
            samples: (num_samples,) or (num_samples, n_channels), of which the mean is heard; any
                number, also 0; int16, or float32 or float64 with full scale at 1

        Returns:
            What is new, in the order of time: an event comes once when it is announced, with
            ``end_seconds`` None, and once more when it has ended.

        Raises:
            AudioError: samples of another type or shape
        """
        mono, n_bad = to_mono(samples)
        self.num_bad_samples += n_bad
        return self._hear(mono)

    def push_gap(self, num_samples: int) -> list[Event]:
        """So many samples are lost, at the rate of the input; the clock goes on as with `push`.

        Silence stands for them. Windows without a single sample that was heard are not scored.
        """
        if num_samples < 0:
            raise AudioError(f"a gap of {num_samples} samples; allowed: 0 or more")
        self._remember_gap(num_samples)
        self.num_lost_samples += num_samples
        events = []
        for at in range(0, num_samples, _GAP_BLOCK):
            block = np.zeros(min(_GAP_BLOCK, num_samples - at), np.float32)
            events += self._hear(block)
        return events

    def finish(self) -> list[Event]:
        """The stream has ended: end what lasts, and hear what no whole window has covered.

        That rest, or a stream shorter than a window, is filled up as recordings are, if the model
        keeps such tails. It speaks for what is left up to the end of the stream.
        """
        if self._is_finished:
            return []
        events = self._classify(self._cutter.cut(self._resampler.finish()))
        self._is_finished = True
        rest = self._cutter.rest
        if self._cutting.tail == "keep" and len(rest) > self._cutter.covered:
            start = self._cutter.start
            whole = self._span(start)
            end = start + len(rest)
            span = Span(whole.begin if start else 0, min(whole.end, end), end)
            events += self._score([(span, rest)])
        return events + self._post.finish()

    def _hear(self, mono: Waveform) -> list[Event]:
        if self._is_finished:
            raise AudioError("the stream is finished; make a new StreamingClassifier")
        self._num_pushed += len(mono)
        return self._classify(self._cutter.cut(self._resampler.push(mono)))

    def _classify(self, windows: Iterator[tuple[int, Waveform]]) -> list[Event]:
        events: list[Event] = []
        batch: list[tuple[Span, Waveform]] = []
        for start, window in windows:
            batch.append((self._span(start), window))
            if len(batch) == self._max_batch:
                events += self._score(batch)
                batch = []
        return events + self._score(batch)

    def _score(self, batch: list[tuple[Span, Waveform]]) -> list[Event]:
        """Of windows as they were heard; the last one can be shorter."""
        levels = [level_db(window) for _, window in batch]
        scored = [self._is_scored(*each) for each in zip(batch, levels, strict=True)]
        decision = self._recogniser.decision
        missing = 0.0 if decision.output in ("softmax", "sigmoid") else np.nan
        scores = np.full((len(batch), len(decision.columns)), missing, np.float32)
        if any(scored):
            heard = [window for (_, window), wanted in zip(batch, scored, strict=True) if wanted]
            scores[scored] = self._recogniser.score(np.stack(list(map(self._fill_up, heard))))
        events = []
        for (span, _), level, is_scored, row in zip(batch, levels, scored, scores, strict=True):
            events += self._finish_window(span, level, is_scored, row)
        return events

    def _is_scored(self, window: tuple[Span, Waveform], level: float) -> bool:
        span, samples = window
        # What was pushed of it: the samples of the input from its start to its end.
        end = min(self._to_input_rate(span.decided), self._num_pushed)
        start = min(self._to_input_rate(span.decided - len(samples)), end - 1)
        if any(gap[0] <= start and end <= gap[1] for gap in self._gaps):
            return False
        return self.settings.gate_db is None or level >= self.settings.gate_db

    def _fill_up(self, samples: Waveform) -> Waveform:
        size, padding = self._cutting.segment_samples, self._cutting.padding
        return samples if len(samples) == size else pad_segment(samples, size, padding)

    def _remember_gap(self, num_samples: int) -> None:
        begin, end = self._num_pushed, self._num_pushed + num_samples
        if self._gaps and self._gaps[-1][1] == begin:
            begin = self._gaps.pop()[0]
        oldest = self._to_input_rate(self._cutter.start)
        while self._gaps and self._gaps[0][1] <= oldest:
            self._gaps.popleft()
        if end > begin:
            self._gaps.append((begin, end))

    def _finish_window(
        self, span: Span, level: float, is_scored: bool, scores: Scores
    ) -> list[Event]:
        smoothed, events = self._post.step(span, scores)
        start = self.num_windows * self.hop_samples / self._rate
        self.num_windows += 1
        if self._tell is not None:
            end = span.decided / self._rate
            found = (level, is_scored, scores, smoothed, tuple(events))
            self._tell(Window(start, end, *found, span=span))
        return events

    def _span(self, start: int) -> Span:
        """Of a whole window."""
        size = self._cutting.segment_samples
        begin = start + (size - self.hop_samples) // 2
        return Span(begin, begin + self.hop_samples, start + size)

    def _to_input_rate(self, num_samples: int) -> int:
        return -(-num_samples * self._input_rate // self._rate)
