"""``ndt stream``: spike counts in, line by line; rates out, as soon as they are known."""

import gc
import json
import os
import re
import stat
import sys
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ndt_cli.commands.console import note, out, run_warnings_shown, warn
from ndt_cli.commands.flags import AcceptChangesOption
from ndt_cli.errors import DataError, typed

if TYPE_CHECKING:
    from ndt_cli.engine.run_folder import SplitFacts
    from ndt_cli.engine.streaming import RateStream
    from ndt_cli.engine.trained_model import Model
    from ndt_cli.metrics.decoding import Decoder

# Of the latest bins, whose times the note at the end is about.
_MOST_TIMES = 100_000


def stream(
    run: Annotated[Path, typer.Argument(help="Run or ensemble folder.", show_default=False)],
    provisional: Annotated[
        bool,
        typer.Option(
            "--provisional",
            help="Where the model looks ahead: print rates at once, as if nothing followed.",
        ),
    ] = False,
    decode: Annotated[
        bool,
        typer.Option(
            "--decode",
            help="Also decode behavior, by ridge regression fitted to the run's training trials.",
        ),
    ] = False,
    accept_changes: AcceptChangesOption = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print a JSON object for each bin: bin, time_ms (where it begins), rates_hz, "
            "decoded.",
        ),
    ] = False,
) -> None:
    """Infer rates bin by bin, in real time.

    Reads a line of spike counts for each bin from standard input, of all
    channels in the order of the spike file, separated by blanks or commas, or
    as a JSON list. Prints a line of rates in Hz (and of decoded values) for
    each bin, as soon as they are known.

    A line "-", an empty line or null is a lost bin: the model sees what it saw
    in place of hidden bins in training. A line "reset" begins a new trial.
    """
    # Threads take longer to wake than such products take, and wait for busy neighbors.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from ndt_cli.engine.inference import load_trained

    with run_warnings_shown():
        model = load_trained(run, device="cpu", accept_changes=accept_changes)
        decoder, names = _decoder(model, accept_changes) if decode else (None, ())
    rates = model.stream(provisional=provisional, decoder=decoder)
    note(_about(run, rates, names))
    if (passes := model.settings.inference.passes) > 1:
        note(f"these are rates of one pass; ndt rates {typed(run)} has the mean of {passes}")
    printer = _Printer(rates, names, as_json)
    lines = _Lines(str(run), rates, model.trained_on)
    times_ms = array("d", [0.0]) * _MOST_TIMES  # a list would grow by a number for each bin
    n_bins = n_slow = 0
    with _undisturbed():
        try:
            for counts in lines:
                if counts == "reset":
                    printer.rest()
                    rates.reset()
                    continue
                start = time.perf_counter()
                rates_N = lines.step(counts)
                if rates_N is not None:
                    printer(rates_N)
                took_ms = (time.perf_counter() - start) * 1000
                times_ms[n_bins % _MOST_TIMES] = took_ms
                n_bins, n_slow = n_bins + 1, n_slow + (took_ms > rates.bin_ms)
                if printer.reader_left:
                    break
        finally:
            # Also after Ctrl-C or a wrong line: what is known of the bins before is printed.
            if not printer.reader_left:
                printer.rest()
            if n_bins:
                text = _timing(sorted(times_ms[: min(n_bins, _MOST_TIMES)]), n_bins)
                if n_slow:
                    text += f"; {n_slow} took longer than {rates.bin_ms:g} ms"
                if lines.n_late:
                    text += f"; {lines.n_late} came late, by {lines.most_late_ms:.0f} ms at most"
                note(text)


def _decoder(model: "Model", accept_changes: bool) -> tuple["Decoder", tuple[str, ...]]:
    """Return the decoder stored with a run, or fit one to its training trials."""
    from ndt_cli.data.loading import load_recording
    from ndt_cli.engine.preflight import check_same_data
    from ndt_cli.engine.streaming import fit_decoder, stored_decoder
    from ndt_cli.metrics.decoding import variable_names

    if (stored := stored_decoder(model)) is not None:
        return stored
    recording = load_recording(model.settings.data)
    check_same_data(model.run, recording, accept_changes=accept_changes)
    if recording.train.behavior_BTV is None:
        raise DataError(
            f"{recording.source} has no behavior to decode",
            "Leave out `decode`, or train on a file with `behavior`.",
        )
    return fit_decoder(model, recording.train), variable_names(recording.train)


def _about(run: Path, rates: "RateStream", names: tuple[str, ...]) -> str:
    """Say what is read and printed, and how late it is."""
    text = f"{run}: {rates.n_neurons} channels, bins of {rates.bin_ms:g} ms; rates in Hz"
    if rates.provisional:
        text += ", provisional"
    elif rates.lag_bins:
        text += f" of {rates.lag_bins} bins before, {rates.delay_ms:g} ms late"
    else:
        text += " without delay but for computing"
    if names:
        late = rates.decoding_delay_ms
        when = f"{late:g} ms late" if late >= 0 else f"{-late:g} ms ahead"
        text += f"; then {', '.join(names)}, {when}"
    return text


def _timing(times_ms: list[float], n_bins: int) -> str:
    median, p99, most = (times_ms[int(share * (len(times_ms) - 1))] for share in (0.5, 0.99, 1))
    return f"{n_bins} bins; a bin took {median:.2f} ms (median), {p99:.2f} (p99), {most:.2f} (most)"


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the garbage collector away: nothing here makes any."""
    gc.collect()
    gc.freeze()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def _is_file(stream: Any) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (AttributeError, OSError, ValueError):
        return False


class _Lines:
    """Counts of a bin for each line of standard input, with errors that name the line."""

    def __init__(self, run: str, rates: "RateStream", trained_on: "SplitFacts") -> None:
        from ndt_cli.engine.streaming import SilenceWatch

        self.run, self.rates, self.facts = run, rates, trained_on
        self.watch = SilenceWatch(trained_on)
        self.number = self.n_late = 0
        self.most_late_ms = 0.0

    def __iter__(self) -> Iterator["list[Any] | str | None"]:
        asked_s = None
        stdin = getattr(sys.stdin, "buffer", ())
        is_file = _is_file(stdin)  # which has no pace of its own
        for line in stdin:
            came_s = time.perf_counter()
            self.number += 1
            counts = self._parsed(line.decode("utf-8-sig", "replace").strip())
            if asked_s is not None and counts != "reset" and not is_file:
                self._note_late((came_s - asked_s) * 1000 - self.rates.bin_ms)
            yield counts
            # Between trials, nothing is late.
            asked_s = None if counts == "reset" else time.perf_counter()

    def _note_late(self, late_ms: float) -> None:
        """Count a bin that came more than its own width late; report the first."""
        if late_ms <= self.rates.bin_ms:
            return
        self.n_late, self.most_late_ms = self.n_late + 1, max(self.most_late_ms, late_ms)
        if self.n_late == 1:
            text = f"line {self.number} came {late_ms:.0f} ms late, in bins of "
            warn(f"{text}{self.rates.bin_ms:g} ms; more such lines are counted, not reported")

    def _parsed(self, text: str) -> "list[Any] | str | None":
        if text in ("", "-", "null"):
            return None
        if text == "reset":
            return text
        values: list[Any]
        if text.startswith("["):
            try:
                values = json.loads(text)
            except (ValueError, RecursionError):
                raise self._error("is not a JSON list", "Each line is [1, 0, 2, ...].") from None
        else:
            # Two commas have a missing count between them: without it, others would move up.
            values = re.split(r"\s*,\s*|\s+", text)
        if len(values) != self.rates.n_neurons:
            raise self._error(
                f"has {len(values)} counts; expected {self.rates.n_neurons}, one for each channel "
                f"that {self.run} was trained on",
                "Give the channels of the spike file, in its order, held-out ones included.",
            )
        return [self._number(value, channel) for channel, value in enumerate(values)]

    def _number(self, value: object, channel: int) -> float:
        number = value
        if isinstance(value, str):
            try:
                # Python reads 1_0 as ten.
                number = int(value) if value.isdecimal() else float(value.replace("_", "?"))
            except ValueError:
                number = None
        # Larger whole numbers fit into no array of numbers.
        if isinstance(number, float) or (type(number) is int and abs(number) < 2**63):
            return number
        found = "null" if value is None else str(value)[:40]
        raise self._error(
            f"has {found!r} as the count of channel {channel}; expected a whole number",
            'A lost bin is a line "-".',
        )

    def step(self, counts: "list[Any] | str | None") -> Any:
        """Take a bin; report channels that have fallen silent."""
        import numpy as np

        counts_N = None if counts is None else np.array(counts)
        try:
            rates_N = self.rates.step(counts_N)
        except DataError as error:
            what = error.message.removeprefix("`counts_N`: ")
            hint = (error.hint or "").replace("Call `reset()`", 'Write a line "reset"')
            raise DataError(
                f"line {self.number}: {what}", hint.replace("None for", '"-" for') or None
            ) from None
        if counts_N is not None:
            for channel in self.watch.step(counts_N):
                self._report(channel)
        return rates_N

    def _report(self, channel: int) -> None:
        name = f" ({self.facts.neuron_names[channel]})" if self.facts.neuron_names else ""
        bin_s = self.rates.bin_ms / 1000
        silent_s = self.watch.silent_bins_N[channel] * bin_s
        rate_hz = self.watch.rate_N[channel] / bin_s
        text = f"channel {channel}{name} has been silent for {silent_s:.3g} s"
        warn(f"{text}, and fired {rate_hz:.3g} spikes/s in training")

    def _error(self, what: str, hint: str) -> DataError:
        return DataError(f"line {self.number} {what}", hint)


class _Printer:
    """Prints a line for each bin, and flushes it."""

    def __init__(self, rates: "RateStream", names: tuple[str, ...], as_json: bool) -> None:
        self.rates, self.names, self.as_json = rates, names, as_json

    @property
    def reader_left(self) -> bool:
        """Whether nobody reads the output any longer, such as after head."""
        return bool(getattr(out.file, "reader_left", False))

    def rest(self) -> None:
        """End the recording, and print the bins that waited for later ones."""
        for rates_N in self.rates.flush():
            if not self.rates.provisional:
                self(rates_N)

    def __call__(self, rates_N: Any) -> None:
        rates_hz = self.rates.in_hz(rates_N).tolist()
        decoded_V = self.rates.decoded_V
        values = [float("nan")] * len(self.names) if decoded_V is None else decoded_V.tolist()
        if not self.as_json:
            out.file.write(" ".join(f"{value:.6g}" for value in (*rates_hz, *values)) + "\n")
            return
        from ndt_cli.jsonable import json_text

        line: dict[str, Any] = {
            "bin": self.rates.bin,
            "time_ms": self.rates.bin * self.rates.bin_ms,
            "rates_hz": rates_hz,
        }
        if self.names:
            line["decoded"] = None
            if decoded_V is not None:
                line["decoded"] = {
                    "bin": self.rates.decoded_bin,
                    "time_ms": self.rates.decoded_bin * self.rates.bin_ms,
                    **dict(zip(self.names, values, strict=True)),
                }
        out.file.write(json_text(line, indent=None) + "\n")
